"""`mulm feedback ...`: what people think of answers, listed, read and forgotten."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import click

from jobs.cli_complete import feedback_ids
from jobs.cli_remote import open_api, with_server
from jobs.cli_verbs import Verbs, is_confirmed, print_result, say, with_json
from mulm.errors import NotFoundError, NotRunningError
from mulm.home import Home
from mulm.records import Thumb
from mulm.terminal_text import harmless

if TYPE_CHECKING:
    from jobs.feedback_desk import FeedbackDesk

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN_CHARS = 60


@click.group(cls=Verbs)
def feedback() -> None:
    """Feedback: what people think of answers. List it, read it, forget it.

    \b
    Example:  mulm feedback ls --model demo
    """


@feedback.command("ls")
@click.option("--model", metavar="NAME", help="Of this model alone, as clients call it.")
@click.option("--model-id", metavar="ID", help="Of these weights alone, such as mdl_3f2a...")
@click.option(
    "--verdict", type=click.Choice(get_args(Thumb)), help="That answers are good, or not."
)
@with_server
@with_json
def feedback_ls(
    model: str | None, model_id: str | None, verdict: Thumb | None, as_json: bool
) -> None:
    """List what was said of answers, the newest first: verdict, model, question, answer, comment.

    Questions and answers are shown as far as they begin; `show` has the whole conversation.

    \b
    Example:  mulm feedback ls
              mulm feedback ls --model assistant --verdict down --json
    """
    with open_desk() as desk:
        found = desk.all(model, model_id, verdict)
        if as_json:
            click.echo(json.dumps(list(found)))
            return
        is_empty = True
        for each in found:
            is_empty = False
            click.echo(line_of(each))
    if is_empty:
        say("there is none")


@feedback.command("show")
@click.argument("feedback_id", metavar="FEEDBACK", shell_complete=feedback_ids)
@with_server
@with_json
def feedback_show(feedback_id: str, as_json: bool) -> None:
    """Show FEEDBACK, by its id: who said what of which answer, with the whole conversation.

    \b
    Example:  mulm feedback show fb_3f2a1b4c5d6e
              mulm feedback show fb_3f2a1b4c5d6e --json
    """
    with open_desk() as desk:
        found = desk.one(_checked(feedback_id))
    for line in [json.dumps(found)] if as_json else described(found):
        click.echo(line if as_json else harmless(line))


@feedback.command("rm")
@click.argument("feedback_id", metavar="FEEDBACK", shell_complete=feedback_ids)
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_server
@with_json
def feedback_rm(feedback_id: str, yes: bool, as_json: bool) -> None:
    """Forget FEEDBACK, by its id, and the conversation with it. Nothing brings it back.

    \b
    Example:  mulm feedback rm fb_3f2a1b4c5d6e
              mulm feedback rm fb_3f2a1b4c5d6e --yes
    """
    with open_desk() as desk:
        found = desk.one(_checked(feedback_id))
        named = f"{found['id']} of {found['model']}"
        if not yes and not is_confirmed(f"Forget {named}?", found["id"]):
            say(f"{found['id']} stays")
            return
        # Gone meanwhile: a first try whose answer was lost, or somebody else was faster.
        with suppress(NotFoundError):
            desk.remove(found["id"])
    result = {"removed": found["id"], "model": found["model"], "verdict": found["verdict"]}
    print_result(result, as_json, "forgot {removed}")


@contextmanager
def open_desk() -> Iterator[FeedbackDesk]:
    """Over HTTP, here or elsewhere; in the ledger where the application is down."""
    from jobs.feedback_desk import RemoteFeedback, ledger_desk

    with ExitStack() as stack:
        try:
            desk: FeedbackDesk = RemoteFeedback(stack.enter_context(open_api()))
        except NotRunningError:
            desk = stack.enter_context(ledger_desk(Home.from_env()))
        yield desk


def line_of(found: dict[str, Any]) -> str:
    """What a list shows of one, on one line whatever was said."""
    asked, answer = (_short(found[name]) for name in ("asked_start", "answer_start"))
    comment = f"  # {_short(found['comment'])}" if found["comment"] else ""
    words = f"{found['id']}  {found['verdict']:<4}  {found['model']:<16}"
    return harmless(f"{words}  {_moment(found['created_at'])}  {asked} -> {answer}{comment}")


def described(found: dict[str, Any]) -> list[str]:
    """What `show` says to a person: what somebody has said begins no line of ours."""
    lines = [f"{found['id']}  {found['verdict']}"]
    facts = {
        "model": " ".join(filter(None, (found["model"], found["model_id"]))),
        "answer": found["answer_id"],
        "key": found["key"],
        "said": f"{_moment(found['changed_at'])} UTC",
        "comment": " ".join(found["comment"].split()),
    }
    lines += [f"{name:<10} {value}" for name, value in facts.items() if value]
    turns = [*found["messages"], {"role": "assistant", "content": found["answer"]}]
    for turn in turns:
        lines += ["", f"[{turn['role']}]", *_indented(turn["content"])]
        for call in _calls(turn):
            lines += _indented(f"calls {call['name']}({call['arguments']})")
    return lines


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _calls(turn: dict[str, Any]) -> list[dict[str, Any]]:
    return list(turn.get("tool_calls") or [])


def _checked(feedback_id: str) -> str:
    """An id that has a place in an address. Raises NotFoundError."""
    if not _ID.fullmatch(feedback_id):
        raise NotFoundError(f"no feedback {feedback_id[:64]!r}", hint="`mulm feedback ls` lists it")
    return feedback_id


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 3]}..."


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
