"""A conversation in the terminal: its turns, its options, and the `/` commands over them.

Kept by `jobs.chat`. Invariant: turns alternate, the user's first, so that any prefix of pairs is a
conversation too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mulm.atomic import write_atomic
from mulm.chat import Message
from mulm.errors import ConfigError, NotFoundError, UnknownNameError, nearest

_MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How answers are made; None leaves it to the server."""

    model: str
    max_tokens: int = 200
    temperature: float = 0.8
    seed: int | None = None
    top_p: float | None = None
    system: str | None = None


@dataclass(slots=True)
class Conversation:
    """What was said so far, and how answers are made."""

    options: ChatOptions
    turns: list[Message] = field(default_factory=list)
    has_ended: bool = False
    pending: str | None = None
    """A prompt that a command asks again."""
    retried: list[Message] = field(default_factory=list)
    """The exchange that its answer replaces."""

    def messages(self, prompt: str | None = None) -> list[Message]:
        """All turns as they are sent, the system's first."""
        system = self.options.system
        first = [Message(role="system", content=system)] if system else []
        last = [] if prompt is None else [Message(role="user", content=prompt)]
        return [*first, *self.turns, *last]

    def add(self, prompt: str, reply: str) -> None:
        """Both turns of an exchange."""
        self.turns += [
            Message(role="user", content=prompt),
            Message(role="assistant", content=reply),
        ]
        self.retried = []

    def take_back(self) -> None:
        """A retry has no answer: what it was to replace stays."""
        self.turns += self.retried
        self.retried = []

    def obey(self, line: str) -> str:
        """Carry out a `/` command; what to show.

        Raises:
            UnknownNameError: no such command or option.
            ConfigError: its argument is missing or impossible.
            NotFoundError: no such file.
        """
        name, _, argument = line[1:].partition(" ")
        if name not in COMMANDS:
            raise UnknownNameError(f"no command /{name}", hint=nearest(name, COMMANDS) or "/help")
        return COMMANDS[name].run(self, argument.strip())


@dataclass(frozen=True, slots=True)
class Command:
    """A `/` command: what it is called with, what it does."""

    usage: str
    what: str
    run: Callable[[Conversation, str], str]


def _help(_conversation: Conversation, _argument: str) -> str:
    width = max(len(f"/{name} {c.usage}") for name, c in COMMANDS.items())
    return "\n".join(f"{f'/{name} {c.usage}':{width}}  {c.what}" for name, c in COMMANDS.items())


def _system(conversation: Conversation, argument: str) -> str:
    conversation.options = replace(conversation.options, system=argument or None)
    return "the system says so from now on" if argument else "the system says nothing"


def _reset(conversation: Conversation, _argument: str) -> str:
    conversation.turns.clear()
    return "the conversation begins anew"


def _undo(conversation: Conversation, _argument: str) -> str:
    _require_turns(conversation)
    del conversation.turns[-2:]
    return "the last exchange is forgotten"


def _forget(conversation: Conversation, _argument: str) -> str:
    _require_turns(conversation)
    del conversation.turns[:2]
    return f"the oldest exchange is left out; {_exchanges(conversation)} stay"


def _retry(conversation: Conversation, _argument: str) -> str:
    _require_turns(conversation)
    conversation.pending = conversation.turns[-2].content
    conversation.retried = conversation.turns[-2:]
    del conversation.turns[-2:]
    options = conversation.options
    if options.seed is not None:
        conversation.options = replace(options, seed=options.seed + 1)
    return ""


def _save(conversation: Conversation, argument: str) -> str:
    path = _path(argument)
    values = [message.model_dump() for message in conversation.messages()]
    write_atomic(path, json.dumps({"messages": values}, ensure_ascii=False).encode() + b"\n")
    return f"{_exchanges(conversation)} saved to {path}"


def _load(conversation: Conversation, argument: str) -> str:
    path = _path(argument)
    if path.exists() and not (path.is_file() and path.stat().st_size <= _MAX_FILE_BYTES):
        raise ConfigError(f"{argument!r} is no conversation that was saved here")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["messages"]
        messages = [Message.model_validate(value) for value in values]
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {argument!r}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{argument!r} is no conversation that was saved here") from None
    system = messages[0].content if messages and messages[0].role == "system" else None
    turns = messages[1:] if system is not None else messages
    roles = [message.role for message in turns]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise ConfigError(f"the turns in {argument!r} do not alternate")
    conversation.turns = turns
    conversation.options = replace(conversation.options, system=system)
    return f"{_exchanges(conversation)} loaded"


def _set(conversation: Conversation, argument: str) -> str:
    name, _, value = argument.replace("=", " ").partition(" ")
    if name not in _READERS:
        raise UnknownNameError(
            f"no option {name!r}", hint=nearest(name, _READERS) or ", ".join(_READERS)
        )
    try:
        read = None if value.strip() == "none" else _READERS[name](value.strip())
    except ValueError:
        raise ConfigError(f"{value.strip()!r} is no value for {name}") from None
    if read is None and name in ("max_tokens", "temperature"):
        raise ConfigError(f"{name} needs a value")
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    if read is not None and not low <= read <= high:
        raise ConfigError(f"{name} is {low:g} to {high:g}, not {read:g}")
    given: dict[str, Any] = {name: read}
    conversation.options = replace(conversation.options, **given)
    return f"{name} = {read}"


def _stats(conversation: Conversation, _argument: str) -> str:
    options = conversation.options
    told = [f"{f.name} = {getattr(options, f.name)}" for f in fields(options)]
    return "\n".join([*told, f"exchanges = {len(conversation.turns) // 2}"])


def _exit(conversation: Conversation, _argument: str) -> str:
    conversation.has_ended = True
    return ""


def _exchanges(conversation: Conversation) -> str:
    number = len(conversation.turns) // 2
    return f"{number} exchange{'' if number == 1 else 's'}"


def _require_turns(conversation: Conversation) -> None:
    if not conversation.turns:
        raise ConfigError("nothing was said yet")


def _path(argument: str) -> Path:
    if not argument:
        raise ConfigError("which file?", hint="/save talk.json")
    return Path(argument).expanduser()


_READERS: dict[str, Callable[[str], int | float]] = {
    "max_tokens": int, "temperature": float, "top_p": float, "seed": int,
}  # fmt: skip

_RANGES = {"max_tokens": (1, math.inf), "temperature": (0.0, 2.0), "top_p": (1e-9, 1.0)}

COMMANDS: dict[str, Command] = {
    "help": Command("", "this list", _help),
    "system": Command("[TEXT]", "what the system says before all else", _system),
    "reset": Command("", "forget what was said", _reset),
    "forget": Command("", "leave out the oldest exchange, where the window is full", _forget),
    "undo": Command("", "forget the last exchange", _undo),
    "retry": Command("", "answer the last message again", _retry),
    "set": Command("NAME VALUE", "max_tokens, temperature, top_p or seed", _set),
    "stats": Command("", "the options, and how long the conversation is", _stats),
    "save": Command("FILE", "write the conversation as JSON", _save),
    "load": Command("FILE", "go on with one that was saved", _load),
    "exit": Command("", "end; so do /quit and Ctrl-D", _exit),
    "quit": Command("", "end", _exit),
}
