"""`mulm key ...` and `mulm usage`: who may use the application, and what they have used."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_remote import chosen_server, open_api, with_server
from jobs.cli_verbs import Verbs, print_result, say, with_json
from mulm.errors import ConfigError, ConflictError, NotRunningError
from mulm.home import Home
from mulm.terminal_text import harmless

if TYPE_CHECKING:
    from jobs.key_desk import KeyDesk

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_LIFE_S, LONGEST_OVERLAP_S = 36_600 * 86_400, 30 * 86_400
"""What an installation grants a key, and its text of before."""
_AMOUNT = click.IntRange(1, 2**53 - 1)
_LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "max_concurrent": "at a time",
    "token_quota": "tokens in all",
}


@click.group(cls=Verbs)
def key() -> None:
    """API keys: list them, make, rotate and revoke them. Their texts are shown once.

    \b
    Example:  mulm key make "a friend" --expires-in 30d
    """


@key.command("ls")
@with_server
@with_json
def key_ls(as_json: bool) -> None:
    """List keys: id, name, what each may do, until when, its limits.

    \b
    Example:  mulm key ls
              mulm key ls --json
    """
    with open_desk() as desk:
        keys = desk.all()
    if as_json:
        click.echo(json.dumps(keys))
        return
    for line in key_lines(keys, time.time()):
        click.echo(harmless(line))


@key.command("make")
@click.argument("name")
@click.option(
    "--scope", type=click.Choice(["inference", "all"]), default="inference",
    help="For answers of models, or for everything.", show_default=True,
)  # fmt: skip
@click.option("--model", "models", multiple=True, help="May ask this one alone; repeatable.")
@click.option("--expires-in", metavar="TIME", help="Such as 12h or 30d; never if not given.")
@click.option("--requests-per-minute", type=_AMOUNT, metavar="N")
@click.option(
    "--tokens-per-minute", type=_AMOUNT, metavar="N", help="Prompts and answers together."
)
@click.option("--max-concurrent", type=_AMOUNT, metavar="N", help="Requests answered at a time.")
@click.option("--token-quota", type=_AMOUNT, metavar="N", help="Tokens in all.")
@with_server
@with_json
def key_make(
    name: str,
    scope: str,
    models: tuple[str, ...],
    expires_in: str | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Make a key and print its text, which is shown this once.

    \b
    Example:  mulm key make "a friend"
              mulm key make shop --model demo --expires-in 30d --requests-per-minute 60
    """
    order: dict[str, Any] = {
        "name": name,
        "scope": scope,
        "models": list(models),
        "expires_in_s": None if expires_in is None else seconds_in(expires_in, LONGEST_LIFE_S),
        "limits": {limit: value for limit, value in limits.items() if value is not None},
    }
    with open_desk() as desk:
        if any(each["name"] == name for each in desk.all()):
            raise ConflictError(
                f"there is a key {name!r} already",
                hint=f"choose another name, or `mulm key rotate {shlex.quote(name)}`",
            )
        made = desk.make(order)
    _show_once(made, as_json, "made")


@key.command("rotate")
@click.argument("name", metavar="KEY")
@click.option("--overlap", default="0s", metavar="TIME", help="How long the old text stays valid.")
@with_server
@with_json
def key_rotate(name: str, overlap: str, as_json: bool) -> None:
    """Give KEY (an id or a name) another text and print it, this once; all else stays.

    Of the first key, which the commands of this machine use, the new text takes the place of the
    old one.

    \b
    Example:  mulm key rotate key_3f2a1b4c5d6e --overlap 1h
              mulm key rotate first
    """
    from jobs.key_desk import found
    from serve_app.keys import is_first_key, write_first_key

    home, overlap_s = Home.from_env(), seconds_in(overlap, LONGEST_OVERLAP_S)
    with open_desk() as desk:
        known = found(desk.all(), name)
        is_ours = chosen_server() is None and is_first_key(home, known["id"], known["name"])
        made = desk.rotate(known["id"], overlap_s)
        if is_ours:
            write_first_key(home, made["key"])
    _show_once(made, as_json, "rotated")


@key.command("revoke")
@click.argument("name", metavar="KEY")
@with_server
@with_json
def key_revoke(name: str, as_json: bool) -> None:
    """End KEY (an id or a name): it is refused within five seconds.

    \b
    Example:  mulm key revoke key_3f2a1b4c5d6e
    """
    from jobs.key_desk import found

    with open_desk() as desk:
        known = found(desk.all(), name)
        desk.revoke(known["id"])
    print_result({"revoked": known["id"], "name": known["name"]}, as_json, "revoked {revoked}")


@click.command()
@click.option("--of", "of_key", metavar="KEY", help="Of this key alone: an id or a name.")
@click.option("--model", help="Of this model alone, as clients call it.")
@click.option("--by", "bucket", type=click.Choice(["hour", "day"]), default="day")
@click.option("--days", type=click.IntRange(1, 36_500), default=30, show_default=True)
@with_server
@with_json
def usage(of_key: str | None, model: str | None, bucket: str, days: int, as_json: bool) -> None:
    """Show what keys have used: requests and tokens by key, model and day or hour (UTC).

    \b
    Example:  mulm usage
              mulm usage --of "a friend" --by hour --days 2 --json
    """
    from jobs.key_desk import found

    with open_desk() as desk:
        names = {each["id"]: each["name"] for each in desk.all()}
        if of_key is not None and of_key not in names and not re.fullmatch(r"key_\w+", of_key):
            of_key = found(desk.all(), of_key)["id"]
        rows = desk.usage(of_key, model, days, bucket)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for line in usage_lines(rows, names, bucket):
        click.echo(harmless(line))


@contextmanager
def open_desk() -> Iterator[KeyDesk]:
    """Over HTTP, here or elsewhere; in the ledger where the application is down."""
    from jobs.key_desk import RemoteKeys, ledger_desk

    with ExitStack() as stack:
        try:
            desk: KeyDesk = RemoteKeys(stack.enter_context(open_api()))
        except NotRunningError:
            desk = stack.enter_context(ledger_desk(Home.from_env()))
        yield desk


def seconds_in(text: str, most_s: int) -> int:
    """The seconds in `90s`, `15m`, `12h` or `30d`. Raises ConfigError, also for more than that."""
    match = re.fullmatch(r"([0-9]{1,99})([smhd])", text)
    if match is None:
        raise ConfigError(f"{text[:99]!r} is no time", hint="such as 90s, 15m, 12h or 30d")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > most_s:
        raise ConfigError(f"{text!r} is too long", hint=f"{most_s // _UNITS['d']}d at most")
    return seconds


def key_lines(keys: list[dict[str, Any]], now_s: float) -> list[str]:
    """A line for each key."""
    lines = []
    for each in keys:
        ends = each["expires_at"]
        words = [each["scope"], *(f"asks {name}" for name in each["models"])]
        if ends is not None:
            word = "expired" if ends <= now_s else "until"
            words += [f"{word} {_moment(ends, '%Y-%m-%d %H:%M')}"]
        words += [
            f"{each['limits'][name]:,} {unit}"
            for name, unit in _LIMITS.items()
            if each["limits"][name] is not None
        ]
        lines.append(f"{each['id']:<18} {each['name']:<20} {', '.join(words)}")
    return lines


def usage_lines(rows: list[dict[str, Any]], names: dict[str, str], bucket: str) -> list[str]:
    """A table, and its sum."""
    form = "%Y-%m-%d" if bucket == "day" else "%Y-%m-%d %H:00"
    head = f"{bucket:<16} {'key':<20} {'model':<20} {'requests':>9} {'prompt':>11} {'answer':>11}"
    counts = ("requests", "input_tokens", "output_tokens")
    lines = [head] + [
        f"{_moment(row['start_at'], form):<16} {names.get(row['key'], row['key']):<20}"
        f" {row['model']:<20} " + _numbers([row[name] for name in counts])
        for row in rows
    ]
    total = [sum(row[name] for row in rows) for name in counts]
    return [*lines, f"{'sum':<58} {_numbers(total)}"]


def _numbers(values: list[int]) -> str:
    requests, prompt, answer = values
    return f"{requests:>9,} {prompt:>11,} {answer:>11,}"


def _moment(seconds: int, form: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


def _show_once(made: dict[str, Any], as_json: bool, word: str) -> None:
    """The text alone goes to stdout, so that a shell can take it."""
    if as_json:
        click.echo(json.dumps(made))
        return
    told = f"{word} {made['id']} ({made['name']}); its text is shown this once:"
    say(told)
    if made.get("hint"):
        say(made["hint"])
    click.echo(made["key"])
