"""Secrets taken out of texts that people and programs will read: logs, error bodies, traces.

Invariant: of a key no more is left than its public id.
"""

from __future__ import annotations

import logging
import re

_KEY = re.compile(r"mulm_sk_([0-9a-f]{12}(?=_))?[A-Za-z0-9_-]*")
_BEARER = re.compile(r"(?i)\b(bearer(?:\s|%20)+)(?!mulm_sk_)[^\s\"',]+")


def redacted(text: str) -> str:
    """The same text without keys, ours or others' behind the word Bearer."""
    text = _KEY.sub(lambda found: f"mulm_sk_{found[1] or ''}...", text)
    return _BEARER.sub(r"\1...", text)


class RedactingFormatter(logging.Formatter):
    """Writes records, tracebacks among them, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return redacted(super().format(record))
