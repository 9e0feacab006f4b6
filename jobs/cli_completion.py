"""`mulm completion`: what makes a shell complete the verbs, options and names of `mulm`."""

from __future__ import annotations

import json

import click
from click.shell_completion import get_completion_class

from jobs.cli_verbs import with_json

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@with_json
@click.pass_context
def completion(context: click.Context, shell: str, as_json: bool) -> None:
    """Print the lines that make a SHELL complete `mulm`: verbs, options, names of models and runs.

    \b
    Example:  source <(mulm completion bash)
              mulm completion bash >> ~/.bashrc
              mulm completion zsh > ~/.zfunc/_mulm
              mulm completion fish > ~/.config/fish/completions/mulm.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    script = kind(context.find_root().command, {}, "mulm", "_MULM_COMPLETE").source()
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)
