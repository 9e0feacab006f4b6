"""What the verbs of the `mulm` command share: how they are found, their options, their output.

Used by `jobs.cli` and the groups of verbs beside it (`jobs.cli_data`, `jobs.cli_model`).
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.progress import Progress
from mulm.errors import ConfigError, UnknownNameError, nearest
from mulm.home import Home
from mulm.terminal_text import harmless

if TYPE_CHECKING:
    from jobs.journey import Journey

F = TypeVar("F", bound=Callable[..., Any])

_QUIET = "mulm.is_quiet"


class Verbs(click.Group):
    """A group that names the nearest verb when one is mistyped."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises UnknownNameError for a verb that does not exist."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UnknownNameError(
                f"no command {args[0]!r}", hint=nearest(args[0], self.list_commands(ctx))
            )
        name, command, rest = super().resolve_command(ctx, args)
        _refuse_elsewhere(ctx, command, rest)
        _note_here(ctx, name, command, rest)
        return name, command, rest


def _refuse_elsewhere(
    context: click.Context, command: click.Command | None, args: list[str]
) -> None:
    """Raises ConfigError where a verb of this machine is to work at a server elsewhere."""
    if command is None or isinstance(command, click.Group) or _takes_url(command):
        return
    if any(arg.partition("=")[0] == "--url" for arg in args):
        raise ConfigError(
            f"`{context.command_path} {command.name}` is for the machine of the installation",
            hint="run it there; docs/command-line.md lists what works at a server elsewhere",
        )


def _takes_url(command: click.Command) -> bool:
    return any(option.name == "url" for option in command.params)


def _note_here(
    context: click.Context, name: str | None, command: click.Command | None, args: list[str]
) -> None:
    """Say that a verb works on this machine where somebody may think that it does elsewhere."""
    if command is None or isinstance(command, click.Group) or not os.environ.get("MULM_URL"):
        return
    is_for_a_shell = context.resilient_parsing or name == "completion"
    if not (_takes_url(command) or is_for_a_shell or {"-q", "--quiet", "-h", "--help"} & {*args}):
        click.echo("MULM_URL is set, but this works on this machine", err=True)


class Number(click.FloatRange):
    """A number that is finite, within a range if one is given."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As `click.ParamType.convert`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def with_json(command: F) -> F:
    """The options that every verb has: `--json` and `--quiet`."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    return option(with_quiet(command))


def with_quiet(command: F) -> F:
    """The `--quiet` option by itself, for verbs with a `--json` of their own."""
    option = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_note_quiet,
        help="Say nothing but the result and errors.",
    )  # fmt: skip
    return option(command)


def _note_quiet(context: click.Context, _option: click.Parameter, is_quiet: bool) -> None:
    context.meta[_QUIET] = is_quiet


def is_quiet() -> bool:
    """Whether the verb under way was told to say no more than its result."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(_QUIET))


def shown_progress() -> Progress:
    """Progress on stderr, or nowhere for a quiet verb."""
    return Progress(_Nowhere() if is_quiet() else sys.stderr)


def say(text: str) -> None:
    """A line beside the result, on stderr; quiet verbs leave it out."""
    if not is_quiet():
        click.echo(harmless(text), err=True)


class _Nowhere(io.StringIO):
    """Takes what is written and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def is_confirmed(question: str, what: str) -> bool:
    """Whether a person says yes. Raises ConfigError where there is nobody to ask about `what`."""
    if not sys.stdin.isatty():
        raise ConfigError(f"nobody to ask whether {what} shall go", hint="say --yes")
    return click.confirm(question, err=True)


def with_overrides(command: F) -> F:
    """The `--set key.path=value` option of verbs that read a config file."""
    option = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one value."
    )
    return option(command)


def open_journey() -> Journey:
    """The stages on this machine's installation, shown on stderr."""
    from jobs.journey import Journey

    return Journey(Home.from_env(), shown_progress())


def print_result(result: Mapping[str, Any], as_json: bool, sentence: str) -> None:
    """One JSON object, or the sentence filled in; an empty sentence says nothing."""
    if as_json:
        click.echo(json.dumps(dict(result)))
    elif sentence:
        click.echo(sentence.format(**result))


def print_versions(versions: list[Any], as_json: bool) -> None:
    """A line per version, or one JSON list."""
    rows = [{"ref": v.ref, "id": v.manifest_id, "created_s": v.created_s} for v in versions]
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        say("there are none yet")
    for row in [] if as_json else rows:
        click.echo(f"{row['ref']:<24} {row['id']}")
