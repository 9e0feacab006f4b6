"""`mulm chat`: talk to a served model in the terminal.

With a prompt it answers once; on a terminal it keeps the conversation; with piped input each
line is a prompt of its own. The answer goes to stdout as it comes, all else to stderr. Invariant:
what a model says moves no cursor.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from jobs.chat_client import ChatClient
from jobs.conversation import ChatOptions, Conversation
from mulm.chat import Message
from mulm.errors import (
    ConfigError,
    ContextLengthError,
    MulmError,
    NotFoundError,
    NotRunningError,
    nearest,
)
from mulm.terminal_text import harmless, lines_of, written

_HISTORY_LINES = 1000
_LEAST_SPENT_S = 0.05

_FULL = "/forget leaves out the oldest exchange, /reset begins anew"

Clock = Callable[[], float]


@dataclass(slots=True)
class Answer:
    """One answer, as far as it came, and how long it took."""

    text: str = ""
    seconds: float = 0.0
    first_s: float | None = None
    """Until its first text."""
    n_tokens: int | None = None
    """Where the server has told."""

    def speed(self) -> str:
        """In words."""
        if self.n_tokens is None or self.first_s is None:
            return f"{self.seconds:.1f} s"
        spent_s = self.seconds - self.first_s
        # What came all at once says nothing about speed.
        has_rate = self.n_tokens > 1 and spent_s >= _LEAST_SPENT_S
        rate = f", {(self.n_tokens - 1) / spent_s:.0f} tokens/s" if has_rate else ""
        return f"{self.n_tokens} tokens{rate}, first after {self.first_s:.2f} s"


def choose_model(client: ChatClient, wanted: str | None) -> str:
    """The wanted model if it is served, else the only or first one.

    Raises:
        NotFoundError: the wanted model is not served.
        NotRunningError: no model is, or the wanted one only starts.
    """
    served = client.models()
    if not served or wanted not in (None, *served):
        _require_none_starts(client, wanted)
    if not served:
        raise NotRunningError("no model is served", hint="run `mulm serve NAME`")
    if wanted is None:
        return served[0]
    if wanted not in served:
        raise NotFoundError(f"no model {wanted!r} is served", hint=nearest(wanted, served))
    return wanted


def _require_none_starts(client: ChatClient, wanted: str | None) -> None:
    names = [name for name in client.starting() if wanted in (None, name)]
    if names:
        raise NotRunningError(
            f"{', '.join(map(repr, names))} {'is' if len(names) == 1 else 'are'} starting",
            hint="ask again in a moment; `mulm ps` shows how it stands",
        )


def answer(
    client: ChatClient,
    options: ChatOptions,
    messages: Sequence[Message],
    out: TextIO,
    reply: Answer | None = None,
    clock: Clock = time.monotonic,
) -> Answer:
    """Stream one answer to `out`; what came of it is in `reply`, even when it is interrupted."""
    reply = reply if reply is not None else Answer()
    started_s = clock()
    for piece in client.stream(options, messages):
        if piece.text:
            reply.first_s = clock() - started_s if reply.first_s is None else reply.first_s
            reply.text += piece.text
            out.write(harmless(piece.text))
            out.flush()
        reply.n_tokens = piece.n_tokens or reply.n_tokens
        reply.seconds = clock() - started_s
    out.write("\n")
    return reply


def converse(client: ChatClient, options: ChatOptions, prompt: str | None, as_json: bool) -> None:
    """What `mulm chat` does: one answer to a prompt, else a conversation on standard input."""
    if as_json and prompt is None:
        raise ConfigError("--json needs a prompt", hint='mulm chat --json "Once upon a time"')
    if prompt is None:
        talk(client, options, sys.stdin, sys.stdout)
        return
    out = io.StringIO() if as_json else sys.stdout
    reply = answer(client, options, Conversation(options).messages(prompt), out)
    if as_json:
        described = {"model": options.model, "prompt": prompt, "answer": reply.text}
        print(json.dumps(described | {"seconds": round(reply.seconds, 3)}))


def talk(
    client: ChatClient,
    options: ChatOptions,
    source: TextIO,
    out: TextIO,
    history: Path | None = None,
) -> None:
    """A conversation on a terminal, or one answer for each line of piped input."""
    if not source.isatty():
        for line in lines_of(source):
            if line.strip():
                answer(client, options, Conversation(options).messages(line.strip()), out)
        return
    conversation = Conversation(options)
    print("type a message; /help has the commands, /exit or Ctrl-D ends", file=sys.stderr)
    with _line_editing(history):
        while not conversation.has_ended:
            try:
                _exchange(client, conversation, _read_prompt(), out)
            except (EOFError, KeyboardInterrupt):
                print(file=sys.stderr)
                return
            except UnicodeDecodeError:
                print("error: that was no UTF-8 text", file=sys.stderr)
            except MulmError as error:
                hint = f" ({error.hint})" if error.hint else ""
                print(f"error [{error.code}]: {error.message}{hint}", file=sys.stderr)


def _exchange(client: ChatClient, conversation: Conversation, line: str, out: TextIO) -> None:
    """A command, or a message and its answer."""
    prompt: str | None = written(line)
    if line.startswith("/"):
        shown = conversation.obey(line)
        if shown:
            print(shown, file=sys.stderr)
        prompt, conversation.pending = conversation.pending, None
    if not prompt:
        return
    reply = Answer()
    try:
        answer(client, conversation.options, conversation.messages(prompt), out, reply)
    except ContextLengthError as error:
        raise ContextLengthError(error.message, hint=_FULL) from None
    except KeyboardInterrupt:
        out.write("\n")  # the answer is cut short, the conversation goes on with what was said
        print("interrupted", file=sys.stderr)
    else:
        print(f"[{reply.speed()}]", file=sys.stderr)
    finally:
        if reply.text:
            conversation.add(prompt, reply.text)
        else:
            conversation.take_back()


def _read_prompt() -> str:
    """A line, or several where each but the last ends with a backslash."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines).strip()


@contextmanager
def _line_editing(history: Path | None) -> Iterator[None]:
    """`input` with editing, and with the lines of earlier conversations."""
    try:
        import readline
    except ImportError:  # not on every system: then lines are just read
        yield
        return
    if history is None:
        yield
        return
    with suppress(OSError):  # none yet, or not ours to read
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            history.touch(mode=0o600)
            readline.write_history_file(history)
