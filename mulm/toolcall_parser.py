"""Finds the calls of tools in an answer's text as it comes.

Made by `toolcalls.ToolUse.parser`, one for each choice of an answer. Invariants: nothing of a mark
is shown as content before it is sure to be none; what is no call of an allowed tool is content,
letter by letter; nothing raises, whatever the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from mulm.chat_format import CALL_BEGIN, CALL_END

_HALF = re.compile("[\ud800-\udfff]")
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([A-Za-z0-9_-]{1,64})"\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of what the assistant says."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call: the first of each has its id and name, all have more of the arguments."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Delta = ContentDelta | ToolCallDelta


class ToolCallParser:
    """Reads one answer.

    Args:
        names: The tools that may be called.
        make_id: Makes the id of a call.
        is_held: Whether a grammar holds calls to their form: their arguments are passed on as they
            come. Otherwise a call is passed on when it is whole and well formed.
    """

    def __init__(
        self, names: Collection[str], make_id: Callable[[], str], *, is_held: bool = False
    ) -> None:
        self._names, self._make_id, self._is_held = names, make_id, is_held
        self._text = ""
        """What was read and not yet passed on."""
        self._white = ""
        """What stood before the mark of a call, should it be none."""
        self._object: _Object | None = None
        """The call that is being read; None outside of calls."""
        self._is_passing_on = False
        self.n_calls = 0

    def push(self, text: str) -> list[Delta]:
        """What is sure with this text; may be nothing."""
        self._text += text
        deltas: list[Delta] = []
        while (step := self._step()) is not None:
            deltas += step
        return deltas

    def finish(self, is_cut: bool = False) -> list[Delta]:
        """What is left when the answer has ended: what became no call is content.

        Args:
            is_cut: Whether the answer had no room to go on. Then what a grammar held to be a call
                is no content either, it is the beginning of a call that nobody can make.
        """
        rest = self._text
        if self._object is not None:
            # Arguments that were passed on already stay a call, if an unfinished one.
            is_call = self._is_passing_on or (is_cut and self._is_held)
            rest = "" if is_call else self._white + CALL_BEGIN + rest
        elif is_cut and self._is_held and _n_unsure(rest) > _n_white(rest):
            rest = rest[: len(rest) - _n_unsure(rest)]
        elif self.n_calls and not rest.strip():
            rest = ""
        self._text, self._object = "", None
        return [ContentDelta(rest)] if rest else []

    def _step(self) -> list[Delta] | None:
        """The next deltas, or None where more text is needed."""
        if self._object is None:
            return self._read_content()
        if self._is_passing_on:
            return self._pass_on(self._object)
        head = _HEAD.match(self._text) if self._is_held else None
        if head is not None and head[1] in self._names:
            return self._begin_passing_on(head)
        return self._read_call(self._object)

    def _read_content(self) -> list[Delta] | None:
        begin = self._text.find(CALL_BEGIN)
        if begin >= 0:
            content = self._text[:begin].rstrip()
            self._white = self._text[len(content) : begin]
            self._text = self._text[begin + len(CALL_BEGIN) :]
            self._object = _Object()
            return [ContentDelta(content)] if content else []
        sure = len(self._text) - _n_unsure(self._text)
        content, self._text = self._text[:sure], self._text[sure:]
        return [ContentDelta(content)] if content else None

    def _read_call(self, call: _Object) -> list[Delta] | None:
        """A call from mark to mark, which its arguments may spell too."""
        call.read(self._text)
        if not call.is_one:
            return self._give_up()
        after = self._text[call.end :].lstrip() if call.end else ""
        if not call.end or (CALL_END.startswith(after) and after != CALL_END):
            return None
        found = _call(self._text[: call.end], self._names) if after.startswith(CALL_END) else None
        if found is None:
            return self._give_up()
        self._leave_call(call.end)
        return [self._new_call(*found)]

    def _begin_passing_on(self, head: re.Match[str]) -> list[Delta]:
        self._text = self._text[head.end() :]
        self._object, self._is_passing_on = _Object(), True
        return [self._new_call(head[1], "")]

    def _pass_on(self, arguments: _Object) -> list[Delta] | None:
        """More of the arguments; when they are whole, the end of the call."""
        if not arguments.end:
            n_read = arguments.n_read
            arguments.read(self._text)
            piece = self._text[n_read : arguments.end or arguments.n_read]
            return [ToolCallDelta(self.n_calls - 1, piece)] if piece else None
        if CALL_END not in self._text[arguments.end :]:
            return None
        self._leave_call(arguments.end)
        return []

    def _leave_call(self, begin: int) -> None:
        """Go on behind the mark of the end."""
        end = self._text.index(CALL_END, begin)
        self._text = self._text[end + len(CALL_END) :]
        self._object, self._is_passing_on = None, False

    def _new_call(self, name: str, arguments: str) -> ToolCallDelta:
        self.n_calls += 1
        return ToolCallDelta(self.n_calls - 1, arguments, self._make_id(), name)

    def _give_up(self) -> list[Delta]:
        """The mark was a text like any other."""
        self._object = None
        return [ContentDelta(self._white + CALL_BEGIN)]


class _Object:
    """Where a JSON object ends, as its text comes."""

    def __init__(self) -> None:
        self._depth = 0
        self._has_begun = self._is_in_text = self._is_escaped = False
        self.is_one = True
        """Whether it begins like an object, as far as is known."""
        self.n_read = 0
        self.end = 0
        """Characters up to its end; 0 until that is known."""

    def read(self, text: str) -> None:
        """Go on in a text that has become longer."""
        while self.n_read < len(text) and not self.end and self.is_one:
            self._take(text[self.n_read])
            self.n_read += 1
            if self._depth == 0 and self._has_begun:
                self.end = self.n_read

    def _take(self, char: str) -> None:
        if not self._has_begun:
            self._has_begun = char == "{"
            self.is_one = self._has_begun or char.isspace()
        if self._is_escaped:
            self._is_escaped = False
        elif self._is_in_text:
            self._is_escaped = char == "\\"
            self._is_in_text = char != '"'
        elif char == '"':
            self._is_in_text = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1


def _n_unsure(text: str) -> int:
    """How many characters at the end may begin a mark, with the white space before it."""
    for n in range(min(len(CALL_BEGIN) - 1, len(text)), 0, -1):
        if CALL_BEGIN.startswith(text[-n:]):
            return n + _n_white(text[:-n])
    return _n_white(text)


def _n_white(text: str) -> int:
    return len(text) - len(text.rstrip())


def _call(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments, as JSON text, of a call; None if it is none."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
        return None
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    # Half a character that the model spelled out stays spelled out: it is no text by itself.
    return name, json.dumps(arguments) if _HALF.search(text) else text
