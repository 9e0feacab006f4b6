"""The ledger's rows of files that clients have uploaded, or that were made for them to download.

Part of `mulm.ledger.Ledger`. Invariants: a row is written when the bytes that it names are stored;
the bytes stay for as long as it does (`mulm.gc`).
"""

from __future__ import annotations

from collections.abc import Callable

from mulm.errors import NotFoundError
from mulm.ledger_answers import note_made
from mulm.ledger_database import LedgerDatabase
from mulm.records import Claim, UserFile


class FileRows:
    """What `Facts` says of files."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def add_file(
        self,
        file_id: str,
        name: str,
        purpose: str,
        size_bytes: int,
        sha256: str,
        claim: Claim | None = None,
    ) -> UserFile:
        row = (file_id, name, purpose, size_bytes, sha256, self._clock())
        with self._db.writing():
            note_made(self._db, claim, file_id)
            self._db.execute("INSERT OR IGNORE INTO files VALUES (?,?,?,?,?,?)", row)
        return self.file(file_id)

    def file(self, file_id: str) -> UserFile:
        rows = self._db.all("SELECT * FROM files WHERE id=?", file_id)
        if not rows:
            raise NotFoundError(f"no file {file_id[:64]!r}", hint="`GET /v1/files` lists them")
        return UserFile(**rows[0])

    def files(
        self,
        purpose: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> list[UserFile]:
        last = None if after is None else self.file(after)
        rows = self._db.all(
            "SELECT * FROM files WHERE (?1 IS NULL OR purpose=?1)"
            " AND (?2 IS NULL OR created_s*?4 > ?2*?4 OR (created_s = ?2 AND id > ?3))"
            " ORDER BY created_s*?4, id LIMIT ?5",
            purpose, last.created_s if last else None, after, -1 if newest_first else 1,
            -1 if limit is None else limit,
        )  # fmt: skip
        return [UserFile(**row) for row in rows]

    def has_file(self, name: str, sha256: str) -> bool:
        return bool(
            self._db.all("SELECT id FROM files WHERE name=? AND sha256=? LIMIT 1", name, sha256)
        )

    def remove_file(self, file_id: str) -> None:
        with self._db.writing():
            removed = self._db.execute("DELETE FROM files WHERE id=?", (file_id,)).rowcount
        if not removed:
            raise NotFoundError(f"no file {file_id[:64]!r}", hint="`GET /v1/files` lists them")
