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
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from mulm.atomic import make_folder
from mulm.errors import ConflictError, NotFoundError, nearest
from mulm.ledger_answers import AnswerRows, note_made
from mulm.ledger_audit import AuditRows
from mulm.ledger_database import LedgerDatabase
from mulm.ledger_deployments import DeploymentRows
from mulm.ledger_feed import FeedRows
from mulm.ledger_feedback import FeedbackRows
from mulm.ledger_files import FileRows
from mulm.ledger_keys import KeyRows
from mulm.ledger_rows import dumped, event_of, run_of, version_of
from mulm.ledger_usage import UsageRows
from mulm.manifest import HOW_TO_MAKE, Kind
from mulm.records import Alias, Claim, Event, Phase, Pointed, Run, Version
from mulm.refs import Ref, check_alias, check_name


class Ledger(
    AnswerRows, DeploymentRows, FeedRows, FeedbackRows, FileRows, KeyRows, UsageRows, AuditRows
):
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

    def publish(self, kind: Kind, name: str, manifest_id: str) -> Version:
        check_name(name)
        with self._db.writing():
            known = self._db.one(
                "SELECT * FROM versions WHERE kind=? AND name=? AND manifest_id=?",
                kind, name, manifest_id,
            )  # fmt: skip
            if known:
                return version_of(known)
            top = self._db.one(
                "SELECT max(number) AS top FROM (SELECT kind, name, number FROM versions"
                " UNION ALL SELECT kind, name, number FROM removed) WHERE kind=? AND name=?",
                kind, name,
            )  # fmt: skip
            number = int(top["top"] or 0) + 1 if top else 1
            row = (kind, name, number, manifest_id, self._clock())
            self._db.execute("INSERT INTO versions VALUES (?,?,?,?,?)", row)
        return Version(*row)

    def resolve(self, kind: Kind, ref: Ref) -> Version:
        with self._db.reading():
            number = ref.version
            if ref.alias:
                alias = self._db.one(
                    "SELECT number FROM aliases WHERE kind=? AND name=? AND alias=?",
                    kind, ref.name, ref.alias,
                )  # fmt: skip
                number = alias["number"] if alias else 0
            found = self._db.one(
                "SELECT * FROM versions WHERE kind=? AND name=? AND (? IS NULL OR number=?)"
                " ORDER BY number DESC LIMIT 1",
                kind, ref.name, number, number,
            )  # fmt: skip
        if not found:
            raise self._not_found(kind, ref)
        return version_of(found)

    def versions(self, kind: Kind, name: str | None = None) -> list[Version]:
        rows = self._db.all(
            "SELECT * FROM versions WHERE kind=? AND (? IS NULL OR name=?)"
            " ORDER BY created_s, number",
            kind, name, name,
        )  # fmt: skip
        return [version_of(row) for row in rows]

    def published_as(self, manifest_id: str) -> list[Version]:
        rows = self._db.all(
            "SELECT * FROM versions WHERE manifest_id=? ORDER BY created_s, kind, name, number",
            manifest_id,
        )
        return [version_of(row) for row in rows]

    def remove_version(self, kind: Kind, name: str, number: int) -> None:
        with self._db.writing():
            version = self._numbered(kind, name, number)
            if version:
                self._require_no_alias(version)
                self._require_not_served(version)
                row = (kind, name, number, version.manifest_id, self._clock())
                self._db.execute("INSERT INTO removed VALUES (?,?,?,?,?)", row)
                self._db.execute(
                    "DELETE FROM versions WHERE kind=? AND name=? AND number=?", row[:3]
                )
        if not version:
            raise self._not_found(kind, Ref(name, version=number))

    def set_alias(
        self, kind: Kind, name: str, alias: str, number: int, only_from: int | None = None
    ) -> None:
        check_alias(alias)
        with self._db.writing():
            version = self._numbered(kind, name, number)
            if version:
                self._require_alias_at(kind, name, alias, only_from)
                row = (kind, name, alias, number, self._clock())
                self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?,?,?,?)", row[:4])
                self._db.execute("INSERT INTO alias_history VALUES (?,?,?,?,?)", row)
        if not version:
            raise self._not_found(kind, Ref(name, version=number))

    def alias_history(self, kind: Kind, name: str, alias: str) -> list[Pointed]:
        rows = self._db.all(
            "SELECT number, set_s FROM alias_history WHERE kind=? AND name=? AND alias=?"
            " ORDER BY rowid DESC",
            kind, name, alias,
        )  # fmt: skip
        return [Pointed(**row) for row in rows]

    def aliases(self, kind: Kind, name: str) -> dict[str, int]:
        rows = self._db.all("SELECT alias, number FROM aliases WHERE kind=? AND name=?", kind, name)
        return {row["alias"]: row["number"] for row in rows}

    def all_aliases(self, kind: Kind | None = None) -> list[Alias]:
        rows = self._db.all(
            "SELECT * FROM aliases WHERE ? IS NULL OR kind=? ORDER BY kind, name, alias", kind, kind
        )
        return [Alias(**row) for row in rows]

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

    def _numbered(self, kind: Kind, name: str, number: int) -> Version | None:
        row = self._db.one(
            "SELECT * FROM versions WHERE kind=? AND name=? AND number=?", kind, name, number
        )
        return version_of(row) if row else None

    def _require_alias_at(self, kind: Kind, name: str, alias: str, only_from: int | None) -> None:
        row = self._db.one(
            "SELECT number FROM aliases WHERE kind=? AND name=? AND alias=?", kind, name, alias
        )
        now = row["number"] if row else 0
        if only_from is not None and now != only_from:
            where = f"points to {name}@{now}" if now else "is not there"
            raise ConflictError(f"{name}@{alias} {where} by now", hint="look at it again")

    def _require_no_alias(self, version: Version) -> None:
        alias = self._db.one(
            "SELECT alias FROM aliases WHERE kind=? AND name=? AND number=?",
            version.kind, version.name, version.number,
        )  # fmt: skip
        if alias:
            raise ConflictError(
                f"{version.ref} is {version.name}@{alias['alias']}",
                hint="point the alias to another version first",
            )

    def _not_found(self, kind: Kind, ref: Ref) -> NotFoundError:
        known = [v.ref for v in self.versions(kind)]
        known += [f"{ref.name}@{alias}" for alias in self.aliases(kind, ref.name)]
        names = {v.partition("@")[0] for v in known}
        options = known if ref.name in names else names
        hint = nearest(str(ref), options) if options else HOW_TO_MAKE[kind]
        return NotFoundError(f"no {kind} {str(ref)!r}", hint=hint)
