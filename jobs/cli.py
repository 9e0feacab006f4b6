"""The `mulm` command: a thin layer of verbs over `jobs.journey`.

Results go to stdout (one JSON object with `--json`), progress and errors to stderr. A mistake
ends with one line, a hint and the exit code of its error class (`jobs.exit_codes`).
"""

from __future__ import annotations

import json
import shlex
import signal
import sys

import click

import mulm
from jobs.cli_backup import backup, restore
from jobs.cli_cluster import cluster
from jobs.cli_completion import completion
from jobs.cli_compress import compress
from jobs.cli_config import config
from jobs.cli_data import data, data_gc
from jobs.cli_doctor import doctor
from jobs.cli_eval import evaluate
from jobs.cli_feedback import feedback
from jobs.cli_join import join, leave
from jobs.cli_keys import key, usage
from jobs.cli_model import model
from jobs.cli_ps import ps
from jobs.cli_root import Root
from jobs.cli_runs import runs
from jobs.cli_serve import serve
from jobs.cli_talk import chat, generate
from jobs.cli_tokenizer import tokenizer
from jobs.cli_train import train
from jobs.cli_up import down, up
from jobs.cli_verbs import print_result, shown_progress, with_json
from jobs.exit_codes import exit_code
from mulm.errors import ConfigError, MulmError, StoppedError
from mulm.home import Home
from mulm.terminal_text import harmless

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Root, context_settings=_CONTEXT)
@click.version_option(mulm.__version__, prog_name="mulm")
def cli() -> None:
    """Build, train, serve and keep teaching a micro language model of your own.

    \b
    mulm up                                 start the application on this machine
    mulm data build examples/sample.yaml    text to a dataset version
    mulm train examples/demo.yaml           dataset to a model
    mulm runs ls                            what runs and ran, and how far it is
    mulm serve demo                         model to an HTTP API
    mulm chat                               talk to it
    mulm generate --file prompts.jsonl      have it answer a file
    mulm down                               stop everything
    """


for verb in (
    backup, chat, cluster, completion, compress, config, data, doctor, down, evaluate, feedback,
    generate, join, key, leave, model, ps, restore, runs, serve, tokenizer, train, up, usage,
):  # fmt: skip
    cli.add_command(verb)
cli.add_command(data_gc, "gc")


@cli.command()
@with_json
def env(as_json: bool) -> None:
    """Print shell lines that point `ray`, and OpenAI clients, at the running application.

    Secrets are named by their files, never printed.

    \b
    Example:  eval "$(mulm env)"
              ray job submit --working-dir . -- python -m jobs.train --config examples/demo.yaml
    """
    from actors.cluster import connect, ray_env

    home = Home.from_env()
    info = connect(home)
    variables = {"RAY_API_SERVER_ADDRESS": info.dashboard_url} | ray_env(home)
    variables |= {"OPENAI_BASE_URL": f"{info.api_url}/v1"}
    if as_json:
        click.echo(json.dumps(variables | {"key_file": str(home.api_key)}))
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo(f'export OPENAI_API_KEY="$(cat {shlex.quote(str(home.api_key))})"')


@cli.command()
@with_json
def demo(as_json: bool) -> None:
    """The whole journey on bundled text: data, training, evaluation, serving, a chat.

    \b
    Example:  mulm demo
              mulm demo --json < /dev/null
    """
    from jobs.demo import run_demo

    out = sys.stderr if as_json else sys.stdout
    result = run_demo(Home.from_env(), shown_progress(), sys.stdin, out)
    print_result(result, as_json, "")


def main(argv: list[str] | None = None) -> None:
    """Run the command and exit with the documented code."""
    as_json = "--json" in (sys.argv[1:] if argv is None else argv)
    # All three end a command in order; started in the background, a shell has it ignore SIGINT,
    # and the cluster that it starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        cli.main(args=argv, prog_name="mulm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message())
    except click.UsageError as error:
        _fail(ConfigError(error.format_message(), hint="`--help` shows how it is used"), as_json)
    except (click.Abort, KeyboardInterrupt):
        hint = "finished work is kept; the same command goes on"
        _fail(StoppedError("stopped", hint=hint), as_json)
    except MulmError as error:
        _fail(error, as_json)


def _fail(error: MulmError, as_json: bool) -> None:
    if as_json:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        click.echo(json.dumps({"error": told}), err=True)
        sys.exit(exit_code(error))
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    click.echo(harmless(f"error [{error.code}]: {error.message}{hint}"), err=True)
    sys.exit(exit_code(error))
