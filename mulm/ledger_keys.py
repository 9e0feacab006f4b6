"""Keys in the ledger's database.

Part of `mulm.ledger.Ledger`. Invariants: of a secret only its digest is kept; one that was revoked
or rotated away is remembered for ever, so that it never becomes valid again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mulm.accounts import NO_LIMITS, Key, KeyLimits, Scope
from mulm.errors import ConflictError, NotFoundError
from mulm.ledger_answers import note_made
from mulm.ledger_database import LedgerDatabase
from mulm.ledger_rows import loaded
from mulm.records import Claim

_COLUMNS = "id, name, created_s, scope, models, expires_s, limits"


class KeyRows:
    """The methods of `Facts` about keys."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def add_key(
        self,
        key_id: str,
        digest: str,
        name: str,
        scope: Scope = "all",
        models: tuple[str, ...] = (),
        expires_s: float | None = None,
        limits: KeyLimits | None = None,
        claim: Claim | None = None,
    ) -> Key:
        key = Key(key_id, name, self._clock(), scope, tuple(models), expires_s, limits or NO_LIMITS)
        try:
            with self._db.writing():
                note_made(self._db, claim, key_id)
                if not self._is_there(key_id, digest):
                    self._require_new(digest)
                    self._require_free(key)
                    self._insert(key, digest)
        except sqlite3.IntegrityError:
            raise ConflictError(f"the key {key_id!r} exists already") from None
        return key

    def replace_key(self, key_id: str, digest: str, name: str) -> None:
        with self._db.writing():
            self._require_new(digest)
            for row in self._db.all_inside("SELECT id FROM keys WHERE name=?", name):
                self._retire(row["id"], self._clock())
                self._db.execute("DELETE FROM keys WHERE id=?", (row["id"],))
            self._insert(Key(key_id, name, self._clock(), "all"), digest)

    def change_key(self, key: Key, before: Key | None = None) -> None:
        values = (key.name, key.scope, _dumped(key.models), key.expires_s, _limits_text(key))
        with self._db.writing():
            if before is not None:
                self._require_unchanged(before, key)
            if not self._db.one("SELECT 1 FROM keys WHERE id=? AND name=?", key.id, key.name):
                self._require_free(key)
            self._require_changed(
                self._db.execute(
                    "UPDATE keys SET name=?, scope=?, models=?, expires_s=?, limits=? WHERE id=?",
                    (*values, key.id),
                ),
                key.id,
            )

    def rotate_key(
        self, key_id: str, digest: str, overlap_s: float, claim: Claim | None = None
    ) -> None:
        with self._db.writing():
            note_made(self._db, claim, key_id)
            if self._is_there(key_id, digest):
                return
            self._require_new(digest)
            self._retire(key_id, self._clock() + overlap_s)
            self._require_changed(
                self._db.execute("UPDATE keys SET digest=? WHERE id=?", (digest, key_id)), key_id
            )

    def remove_key(self, key_id: str) -> None:
        with self._db.writing():
            self._retire(key_id, self._clock())
            self._require_changed(
                self._db.execute("DELETE FROM keys WHERE id=?", (key_id,)), key_id
            )

    def valid_keys(self) -> list[Key]:
        rows = self._db.all(f"SELECT {_COLUMNS} FROM keys ORDER BY created_s, id")  # noqa: S608
        return [_key_of(row) for row in rows]

    def key(self, key_id: str) -> Key:
        rows = self._db.all(f"SELECT {_COLUMNS} FROM keys WHERE id=?", key_id)  # noqa: S608
        if not rows:
            raise NotFoundError(f"no key {key_id!r}")
        return _key_of(rows[0])

    def key_secrets(self) -> dict[str, Key]:
        with self._db.reading():
            rows = self._db.all_inside(f"SELECT digest, {_COLUMNS} FROM keys")  # noqa: S608
            old = self._db.all_inside(
                "SELECT digest, key_id, until_s FROM retired_secrets WHERE until_s>?", self._clock()
            )
        found = {row.pop("digest"): _key_of(row) for row in rows}
        by_id = {key.id: key for key in found.values()}
        for row in old:
            if (key := by_id.get(row["key_id"])) is not None:
                until_s = min(row["until_s"], key.expires_s or row["until_s"])
                found[row["digest"]] = replace(key, expires_s=until_s)
        return found

    def is_retired(self, digest: str) -> bool:
        return bool(self._db.all("SELECT 1 FROM retired_secrets WHERE digest=?", digest))

    def _is_there(self, key_id: str, digest: str) -> bool:
        """Whether this was done: a call that was cut off behind its end is made again."""
        found = self._db.one("SELECT 1 FROM keys WHERE id=? AND digest=?", key_id, digest)
        return found is not None

    def _insert(self, key: Key, digest: str) -> None:
        self._db.execute(
            "INSERT INTO keys (id, digest, name, created_s, scope, models, expires_s, limits)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (
                key.id, digest, key.name, key.created_s, key.scope, _dumped(key.models),
                key.expires_s, _limits_text(key),
            ),
        )  # fmt: skip

    def _retire(self, key_id: str, until_s: float) -> None:
        """The key's secrets end then at the latest."""
        self._db.execute(
            "UPDATE retired_secrets SET until_s=min(until_s, ?) WHERE key_id=?", (until_s, key_id)
        )
        self._db.execute(
            "INSERT INTO retired_secrets SELECT digest, id, ? FROM keys WHERE id=?",
            (until_s, key_id),
        )

    def _require_new(self, digest: str) -> None:
        if self._db.one("SELECT 1 FROM retired_secrets WHERE digest=?", digest):
            raise ConflictError("this secret was revoked", hint="make a new key")

    def _require_free(self, key: Key) -> None:
        """Names tell which key is meant."""
        other = self._db.one("SELECT id FROM keys WHERE name=? AND id<>?", key.name, key.id)
        if other:
            raise ConflictError(
                f"there is a key {key.name!r} already",
                hint=f"choose another name, or rotate or revoke {other['id']}",
                param="name",
            )

    def _require_unchanged(self, before: Key, wanted: Key) -> None:
        """A call that was cut off behind its end is made again, and finds what it wanted."""
        row = self._db.one(f"SELECT {_COLUMNS} FROM keys WHERE id=?", before.id)  # noqa: S608
        if row and _key_of(row) not in (before, wanted):
            raise ConflictError(
                f"the key {before.id!r} was changed meanwhile",
                hint="look at it, then change it",
            )

    def _require_changed(self, cursor: sqlite3.Cursor, key_id: str) -> None:
        if not cursor.rowcount:
            raise NotFoundError(f"no key {key_id!r}")


def _key_of(row: Mapping[str, Any]) -> Key:
    read = KeyLimits.model_validate_json
    limits = loaded(row["limits"], read) if row["limits"] else NO_LIMITS
    models = tuple(loaded(row["models"])) if row["models"] else ()
    return Key(**{**row, "models": models, "limits": limits})


def _dumped(models: tuple[str, ...]) -> str | None:
    return json.dumps(list(models)) if models else None


def _limits_text(key: Key) -> str:
    return key.limits.model_dump_json(exclude_none=True)
