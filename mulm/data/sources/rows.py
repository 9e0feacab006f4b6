"""Rows as documents: which columns hold text or a conversation, and what is wrong where none do.

Called by the sources whose files have rows. Invariant: a row never raises: it is a document, or a
reject that says why and shows the row.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from mulm.data.source_spec import SourceSpec
from mulm.data.sources import conversations
from mulm.data.sources.base import RawDocument, SourceFile
from mulm.data.sources.conversations import BadConversationError
from mulm.data.sources.decoding import from_bytes, from_text, printable
from mulm.data.sources.streams import SHOWN_BYTES
from mulm.errors import SchemaError, nearest

COLUMNS = (
    "text", "messages", "conversations", "instruction", "input", "output", "history", "system",
    "tools", "label", "prompt", "chosen", "rejected",
)  # fmt: skip
"""What a column may hold; `SourceSpec.columns` says where it has another name."""

_N_CHECKED = 16
_MISFITS = frozenset({"no_text", "bad_text", "bad_row", "bad_messages", "unknown_role"})
_TEXT_LIKE = ("content", "contents", "document", "body", "article", "passage", "story", "code")
_QUESTION_LIKE = ("question", "prompt", "query", "input")
_ANSWER_LIKE = ("answer", "response", "completion", "output", "reply")


class RowReader:
    """Reads the rows of one source."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._name_by_column = {column: columns.get(column, column) for column in COLUMNS}
        self._renamed = dict(columns)
        self._only_text = "text" in columns

    def name_of(self, column: str) -> str:
        """What a column of `COLUMNS` is called in the files."""
        return self._name_by_column[column]

    def wanted(self, found: Iterable[str]) -> list[str]:
        """Those of the columns that are there which we read."""
        ours = set(self._name_by_column.values())
        return [name for name in found if name in ours]

    def document(self, row: object) -> RawDocument:
        """What a row holds."""
        if not isinstance(row, dict):
            return reject(row, "bad_row")
        held = self._held(row)
        try:
            if not self._only_text:
                if "chosen" in held and "rejected" in held:
                    return conversations.preference(held)
                if held.get("messages") is not None:
                    return conversations.conversation(held)
                if "instruction" in held and "output" in held:
                    return conversations.instruction(held)
        except BadConversationError as bad:
            return reject(row, str(bad))
        return _text(row, held)

    def check(self, file: SourceFile, rows: Iterable[object]) -> None:
        """Look at the first rows.

        Raises:
            SchemaError: none of them holds what we read.
        """
        unknown = sorted(set(self._renamed) - set(COLUMNS))
        if unknown:
            raise SchemaError(
                f"unknown in columns: {unknown[0]!r}", hint=nearest(unknown[0], COLUMNS)
            )
        first: tuple[int, object, str] | None = None
        for number, row in enumerate(islice(rows, _N_CHECKED), 1):
            reason = self.document(row).reason
            if reason not in _MISFITS:
                return
            first = first or (number, row, reason)
        if first:
            raise self._misfit(file, *first)

    def _held(self, row: Mapping[str, Any]) -> dict[str, Any]:
        held = {column: row[name] for column, name in self._name_by_column.items() if name in row}
        if held.get("conversations") is not None:
            held.setdefault("messages", held["conversations"])
        return held

    def _misfit(self, file: SourceFile, number: int, row: object, reason: str) -> SchemaError:
        where = f"{file.name!r}, row {number}"
        if not isinstance(row, dict):
            return SchemaError(
                f"{where}: is {_kind(row)}, not columns and values",
                hint='a row is such as {"text": "..."}',
            )
        found = ", ".join(repr(name) for name in row) or "none"
        details = {"file": file.name, "row": number, "found": list(row), "reason": reason}
        text = self._name_by_column["text"]
        if reason == "bad_text":
            said = f"{where}: column {text!r} holds {_kind(row[text])}, not text"
        elif reason == "no_text":
            missing = [name for name in self._renamed.values() if name not in row]
            wanted = ", ".join(map(repr, missing)) or "'text' or a conversation's"
            said = f"{where}: has no column {wanted}"
        else:
            said = f"{where}: its conversation cannot be read ({reason})"
        return SchemaError(f"{said}; found: {found}", hint=self._suggestion(row), **details)

    def _suggestion(self, row: Mapping[str, Any]) -> str:
        texts = [name for name, value in row.items() if isinstance(value, str)]
        question, answer = _first_of(_QUESTION_LIKE, texts), _first_of(_ANSWER_LIKE, texts)
        if question and answer:
            return f"set `columns: {{instruction: {question}, output: {answer}}}`"
        wanted = self._name_by_column["text"]
        close = difflib.get_close_matches(wanted, texts, n=1)
        longest = max(texts, key=lambda name: len(row[name]), default="")
        chosen = (close[0] if close else "") or _first_of(_TEXT_LIKE, texts) or longest
        if chosen:
            return f"set `columns: {{text: {chosen}}}` if {chosen!r} holds the text"
        return "no column holds text: is it the right file?"


def check_rows(spec: SourceSpec, file: SourceFile, rows: Iterable[object]) -> None:
    """See `RowReader.check`."""
    RowReader(spec.columns).check(file, rows)


def _text(row: Mapping[str, Any], held: Mapping[str, Any]) -> RawDocument:
    if "text" not in held:
        return reject(row, "no_text")
    text = held["text"]
    if isinstance(text, str):
        return from_text(text)
    if isinstance(text, bytes):
        return from_bytes(text)
    return reject(row, "null_text" if text is None else "bad_text")


def reject(row: object, reason: str) -> RawDocument:
    """A reject that shows the head of its row."""
    try:
        content = json.dumps(row, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        content = ""
    return RawDocument(printable(content[:SHOWN_BYTES]), reason)


def _first_of(known: Sequence[str], names: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in names}
    return next((by_lower[name] for name in known if name in by_lower), "")


def _kind(value: object) -> str:
    kinds = {str: "text", bool: "true or false", int: "a number", float: "a number"}
    return {**kinds, list: "a list", dict: "an object", type(None): "null"}.get(
        type(value), type(value).__name__
    )
