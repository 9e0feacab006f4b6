"""The desk of keys: who may use an installation, and what they have used.

Made for `mulm key` and `mulm usage`: over the control API of a server, here or elsewhere, or in the
ledger of this machine while the application is down. Invariants: both tell the same; every change
leaves a row in the audit log; the text of a key is told once, to whoever made it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jobs.ledger_desk import note_of, open_ledger
from jobs.remote import Remote
from mulm.accounts import HOUR_S
from mulm.config import parse_config
from mulm.errors import ConflictError, NotFoundError, nearest
from mulm.home import Home
from mulm.ledger import Ledger
from serve_app.control_api.keys import NewKey, described, issue, reissue, unserved_hint
from serve_app.key_text import ensure_secret

Told = dict[str, Any]
_BUCKETS = {"hour": HOUR_S, "day": 24 * HOUR_S}


class KeyDesk(Protocol):
    """Keys and usage as the control API tells them."""

    def all(self) -> list[Told]:
        """All that were not revoked, oldest first."""

    def make(self, order: Told) -> Told:
        """A key as the body of `POST /api/v1/keys` asks for it, with its text under `key`."""

    def rotate(self, key_id: str, overlap_s: int) -> Told:
        """The key with another secret, told under `key`. Raises NotFoundError."""

    def revoke(self, key_id: str) -> None:
        """End a key. Raises NotFoundError, and ConflictError for the key that asks."""

    def usage(self, key: str | None, model: str | None, days: int, bucket: str) -> list[Told]:
        """What was used in so many days until now, in order of time."""


class RemoteKeys:
    """The desk of a server that is up."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def all(self) -> list[Told]:
        """See `KeyDesk.all`."""
        return list(self._remote.items("keys"))

    def make(self, order: Told) -> Told:
        """See `KeyDesk.make`."""
        made: Told = self._remote.post("keys", order).json()
        return made

    def rotate(self, key_id: str, overlap_s: int) -> Told:
        """See `KeyDesk.rotate`."""
        made: Told = self._remote.post(f"keys/{key_id}/rotate", {"overlap_s": overlap_s}).json()
        return made

    def revoke(self, key_id: str) -> None:
        """See `KeyDesk.revoke`."""
        self._remote.delete(f"keys/{key_id}")

    def usage(self, key: str | None, model: str | None, days: int, bucket: str) -> list[Told]:
        """See `KeyDesk.usage`."""
        words: Told = {"key": key, "model": model, "from": _begin(days), "bucket": bucket}
        return list(self._remote.items("usage", **words))


class LedgerKeys:
    """The desk of this machine while the application is down."""

    def __init__(self, home: Home, facts: Ledger) -> None:
        self._home, self._facts = home, facts

    def all(self) -> list[Told]:
        """See `KeyDesk.all`."""
        return [described(key) for key in self._facts.valid_keys()]

    def make(self, order: Told) -> Told:
        """See `KeyDesk.make`."""
        secret = ensure_secret(self._home.key_secret)
        with self._facts.together():
            key, made = issue(self._facts, secret, parse_config(NewKey, order))
            self._note("mulm key make", key.id)
        return described(key) | {"key": made.text, "hint": unserved_hint(self._facts, key)}

    def rotate(self, key_id: str, overlap_s: int) -> Told:
        """See `KeyDesk.rotate`."""
        secret = ensure_secret(self._home.key_secret)
        with self._facts.together():
            key, made = reissue(self._facts, secret, key_id, overlap_s)
            self._note("mulm key rotate", key_id)
        return described(key) | {"key": made.text}

    def revoke(self, key_id: str) -> None:
        """See `KeyDesk.revoke`."""
        with self._facts.together():
            self._facts.remove_key(key_id)
            self._note("mulm key revoke", key_id)

    def usage(self, key: str | None, model: str | None, days: int, bucket: str) -> list[Told]:
        """See `KeyDesk.usage`."""
        rows = self._facts.usage(key, model, _begin(days), None, _BUCKETS[bucket])
        return [
            {
                "start_at": row.start_s,
                "key": row.key_id,
                "model": row.model,
                "requests": row.requests,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
            }
            for row in rows
        ]

    def _note(self, command: str, key_id: str) -> None:
        self._facts.add_audit(*note_of(command, f"/api/v1/keys/{key_id}"))


@contextmanager
def ledger_desk(home: Home) -> Iterator[LedgerKeys]:
    """The desk of this machine's ledger, which nobody else may have open."""
    with open_ledger(home) as facts:
        yield LedgerKeys(home, facts)


def found(keys: list[Told], name: str) -> Told:
    """The key of that id or name.

    Raises:
        NotFoundError: none is.
        ConflictError: several have that name.
    """
    named = [key for key in keys if name == key["id"]] or [k for k in keys if name == k["name"]]
    if not named:
        known = [key["id"] for key in keys] + [key["name"] for key in keys]
        raise NotFoundError(f"no key {name!r}", hint=nearest(name, known))
    if len(named) > 1:
        ids = ", ".join(key["id"] for key in named)
        raise ConflictError(f"{len(named)} keys are called {name!r}", hint=f"name one by id: {ids}")
    return named[0]


def _begin(days: int) -> int:
    return max(0, int(time.time()) - days * 24 * HOUR_S)
