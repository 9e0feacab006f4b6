"""Conversations as documents: their turns, kept as JSON beside the text that a person reads.

Used where documents are read (the rules that change text change every turn) and where they are
encoded. A preference pair is two whole conversations, `{"chosen": [...], "rejected": [...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mulm.chat import Message
from mulm.config import canonical_json

PAIR_PREFIX = '{"chosen"'
"""How the canonical JSON of a preference pair begins, and that of no conversation."""


def is_pair(messages: str) -> bool:
    """Whether a stored conversation is a preference pair."""
    return messages.startswith(PAIR_PREFIX)


def turns_of(messages: str) -> list[Message]:
    """The turns that are learned of a stored conversation; of a preference pair the chosen ones."""
    if not messages:
        return []
    values = json.loads(messages)
    turns = values["chosen"] if isinstance(values, dict) else values
    return [Message.model_validate(turn) for turn in turns]


def changed(messages: str, change: Callable[[str], str]) -> str:
    """The conversation with `change` applied to what is said in each turn."""

    def apply(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [turn | {"content": change(turn["content"])} for turn in turns]

    values = json.loads(messages)
    if isinstance(values, dict):
        values = {side: apply(turns) for side, turns in values.items()}
    else:
        values = apply(values)
    return canonical_json(values).decode()
