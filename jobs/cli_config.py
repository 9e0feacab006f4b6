"""`mulm config ...`: what a config says, and where each value comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.cli_verbs import Verbs, say, with_json, with_overrides

if TYPE_CHECKING:
    from jobs.config_explain import Explained

_KINDS = ("train", "data", "eval", "compress", "serve")
_VALUE_CHARS = 200
_COLUMN_CHARS = 40


@click.group(cls=Verbs)
def config() -> None:
    """Configs and settings: every value, and where it comes from.

    \b
    Example:  mulm config explain examples/demo.yaml
    """


@config.command("explain")
@click.argument("path", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@with_overrides
@click.option(
    "--kind", type=click.Choice(_KINDS), help="Whose config; told by its keys if not given."
)
@with_json
def explain(path: Path | None, overrides: tuple[str, ...], kind: str | None, as_json: bool) -> None:
    """Show every value of CONFIG with its origin: a line of the file, --set, or a default.

    After it the settings of this machine, from the environment or by default; without CONFIG, only
    these. Secrets are told as set, never shown.

    \b
    Example:  mulm config explain examples/demo.yaml
              mulm config explain examples/demo.yaml --set steps=200
              mulm config explain --json
    """
    from jobs.config_explain import explain_config, explain_settings, unknown_variables
    from mulm.errors import ConfigError

    if path is None and (overrides or kind):
        raise ConfigError("--set and --kind belong to a config", hint="name its file first")
    found_kind, values = (None, []) if path is None else explain_config(path, overrides, kind)
    settings, unknown = explain_settings(os.environ), unknown_variables(os.environ)
    if as_json:
        tables = {"config": [asdict(one) for one in values]}
        tables |= {"settings": [asdict(one) for one in settings]}
        named = {"file": path and str(path), "kind": found_kind, "unknown_variables": unknown}
        click.echo(json.dumps(named | tables))
        return
    if path is not None:
        _print_table(f"{found_kind} config {path}", values)
    _print_table("settings", settings)
    for name, hint in unknown.items():
        say(f"nothing reads the variable {name}: {hint}")


def _print_table(title: str, values: Sequence[Explained]) -> None:
    from jobs.dataset_words import one_line

    click.echo(one_line(title))
    rows = [(one.key, _text(one), one_line(one.where or one.origin)) for one in values]
    widths = [min(_COLUMN_CHARS, max(len(row[column]) for row in rows)) for column in (0, 1)]
    for key, value, origin in rows:
        click.echo(f"  {key:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


def _text(one: Explained) -> str:
    from jobs.dataset_words import one_line

    text = "none" if one.value is None else one.value
    return one_line(text if isinstance(text, str) else json.dumps(text), _VALUE_CHARS)
