"""The ledger: mutable facts in one SQLite database with one owner.

Names and version numbers, aliases, runs with their ordered events, deployments, API keys, files,
feedback.
While the application is up, the `LedgerHost` actor owns it and others hold a typed client with
these same methods (the protocol `mulm.facts.Facts`); otherwise the calling process opens it.
Invariants: an acknowledged fact survives a power cut; events of a run count 1, 2, 3 ...
without a gap; an alias points to an existing version; a number means one manifest for ever.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from mulm.atomic import make_folder
from mulm.errors import ConflictError, NotFoundError, nearest
from mulm.ledger_answers import AnswerRows, note_made
from mulm.ledger_database import LedgerDatabase
from mulm.ledger_feedback import FeedbackRows
from mulm.ledger_files import FileRows
from mulm.ledger_keys import KeyRows
from mulm.ledger_rows import dumped, event_of, run_of
from mulm.ledger_usage import UsageRows
from mulm.ledger_versions import VersionRows
from mulm.records import Claim, Event, Phase, Run


class Ledger(AnswerRows, FeedbackRows, FileRows, KeyRows, UsageRows, VersionRows):
    """`Facts` on a SQLite file (WAL). Safe to share between threads of one process."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        make_folder(path.parent)
        self._clock = clock
        self._db = LedgerDatabase(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside is one transaction: all of it, or nothing where an error leaves it.

        For whoever has the file open; through the cluster there is no such thing.
        """
        with self._db.writing():
            yield

    def create_run(
        self, run_id: str, kind: str, config: Mapping[str, Any], claim: Claim | None = None
    ) -> Run:
        now_s = self._clock()
        with self._db.writing():
            note_made(self._db, claim, run_id)
            self._db.execute(
                "INSERT OR IGNORE INTO runs VALUES (?,?,?,'queued',?,?,NULL,NULL)",
                (run_id, kind, json.dumps(dict(config)), now_s, now_s),
            )
        return self.run(run_id)

    def set_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        with self._db.writing():
            changed = self._db.execute(
                "UPDATE runs SET config=?, updated_s=? WHERE id=?",
                (dumped(config), self._clock(), run_id),
            )
            if not changed.rowcount:
                raise NotFoundError(f"no run {run_id!r}")

    def run(self, run_id: str) -> Run:
        rows = self._db.all("SELECT * FROM runs WHERE id=?", run_id)
        if not rows:
            known = [row["id"] for row in self._db.all("SELECT id FROM runs")]
            raise NotFoundError(f"no run {run_id!r}", hint=nearest(run_id, known[-20:]))
        return run_of(rows[0])

    def runs(
        self,
        kind: str | None = None,
        phase: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        last = None if after is None else self.run(after)
        created_s = None if last is None else last.created_s
        rows = self._db.all(
            "SELECT * FROM runs WHERE (?1 IS NULL OR kind=?1) AND (?2 IS NULL OR phase=?2)"
            " AND (?3 IS NULL OR created_s < ?3 OR (created_s = ?3 AND id > ?4))"
            " ORDER BY created_s DESC, id LIMIT ?5",
            kind, phase, created_s, after, -1 if limit is None else limit,
        )  # fmt: skip
        return [run_of(row) for row in rows]

    def set_phase(
        self,
        run_id: str,
        phase: Phase,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        only_from: Collection[Phase] | None = None,
    ) -> None:
        with self._db.writing():
            now = self._db.one("SELECT phase FROM runs WHERE id=?", run_id)
            if not now:
                raise NotFoundError(f"no run {run_id!r}")
            if only_from is not None and now["phase"] not in only_from:
                raise ConflictError(f"{run_id} is {now['phase']} by now", hint="look at it again")
            self._db.execute(
                "UPDATE runs SET phase=?, updated_s=?, result=?, error=? WHERE id=?",
                (phase, self._clock(), dumped(result), dumped(error), run_id),
            )
            data = {"phase": phase} | ({"error": dict(error)} if error else {})
            self._append(run_id, [("phase", data)])

    def append_events(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        with self._db.writing():
            return self._append(run_id, events)

    def events(
        self, run_id: str, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[Event]:
        rows = self._db.all(
            "SELECT * FROM events WHERE run_id=? AND seq>?"
            " AND (?='[]' OR kind IN (SELECT value FROM json_each(?))) ORDER BY seq LIMIT ?",
            run_id, after, wanted := json.dumps(sorted(kinds)), wanted, limit,
        )  # fmt: skip
        return [event_of(row) for row in rows]

    def last_event(self, run_id: str, kind: str | None = None) -> Event | None:
        rows = self._db.all(
            "SELECT * FROM events WHERE run_id=? AND (? IS NULL OR kind=?)"
            " ORDER BY seq DESC LIMIT 1",
            run_id, kind, kind,
        )  # fmt: skip
        return event_of(rows[0]) if rows else None

    def _append(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        last = self._db.one("SELECT max(seq) AS seq FROM events WHERE run_id=?", run_id)
        seq = int(last["seq"] or 0) if last else 0
        for kind, data in events:
            seq += 1
            row = (run_id, seq, self._clock(), kind, json.dumps(dict(data)))
            self._db.execute("INSERT INTO events VALUES (?,?,?,?,?)", row)
        return seq
