"""`mulm chat`: talk to a served model in the terminal.

With a prompt it answers once; on a terminal it keeps the conversation; with piped input each
line is a prompt of its own. The answer goes to stdout as it comes, all else to stderr.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from jobs.chat_client import ChatClient
from mulm.chat import Message
from mulm.errors import (
    ConfigError,
    ContextLengthError,
    MulmError,
    NotFoundError,
    NotRunningError,
    nearest,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer and how long it took."""

    text: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How answers are made."""

    model: str
    max_tokens: int = 200
    temperature: float = 0.8
    seed: int | None = None


def choose_model(client: ChatClient, wanted: str | None) -> str:
    """The wanted model if it is served, else the only or first one.

    Raises:
        NotFoundError: the wanted model is not served.
        NotRunningError: no model is.
    """
    served = client.models()
    if not served:
        raise NotRunningError("no model is served", hint="run `mulm serve NAME`")
    if wanted is None:
        return served[0]
    if wanted not in served:
        raise NotFoundError(f"no model {wanted!r} is served", hint=nearest(wanted, served))
    return wanted


def answer(
    client: ChatClient, options: ChatOptions, messages: Sequence[Message], out: TextIO
) -> Answer:
    """Stream one answer to `out`."""
    started_s = time.monotonic()
    pieces = []
    for piece in client.stream(
        options.model,
        messages,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    ):
        pieces.append(piece)
        out.write(piece)
        out.flush()
    out.write("\n")
    return Answer("".join(pieces), time.monotonic() - started_s)


def converse(client: ChatClient, options: ChatOptions, prompt: str | None, as_json: bool) -> None:
    """What `mulm chat` does: one answer to a prompt, else a conversation on standard input."""
    if as_json and prompt is None:
        raise ConfigError("--json needs a prompt", hint='mulm chat --json "Once upon a time"')
    if prompt is None:
        talk(client, options, sys.stdin, sys.stdout)
        return
    out = io.StringIO() if as_json else sys.stdout
    reply = answer(client, options, [Message(role="user", content=prompt)], out)
    if as_json:
        described = {"model": options.model, "prompt": prompt, "answer": reply.text}
        print(json.dumps(described | {"seconds": round(reply.seconds, 3)}))


def talk(client: ChatClient, options: ChatOptions, source: TextIO, out: TextIO) -> None:
    """A conversation on a terminal, or one answer for each line of piped input."""
    is_terminal = source.isatty()
    history: list[Message] = []
    for prompt in _prompts(source, is_terminal):
        turn = Message(role="user", content=prompt)
        if not is_terminal:
            answer(client, options, [turn], out)
            continue
        try:
            history = _next_turn(client, options, [*history, turn], out)
        except MulmError as error:
            print(f"error [{error.code}]: {error.message}", file=sys.stderr)
        except KeyboardInterrupt:
            out.write("\n")  # the answer is cut short, the conversation goes on


def _next_turn(
    client: ChatClient, options: ChatOptions, messages: list[Message], out: TextIO
) -> list[Message]:
    """Answer, forgetting the oldest turns as far as the model's window asks for it."""
    while True:
        try:
            reply = answer(client, options, messages, out)
        except ContextLengthError:
            if len(messages) < 3:
                raise
            messages = messages[2:]
        else:
            return [*messages, Message(role="assistant", content=reply.text)]


def _prompts(source: TextIO, is_terminal: bool) -> Iterator[str]:
    """Non-empty lines until the end of input, `/quit` or Ctrl-C at the prompt."""
    if is_terminal:
        print("type a message; /quit or Ctrl-D ends", file=sys.stderr)
        import readline  # noqa: F401 - gives input() a history and line editing
    while True:
        try:
            line = input("> ") if is_terminal else source.readline()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if (not line and not is_terminal) or line.strip() == "/quit":
            return
        if line.strip():
            yield line.strip()
