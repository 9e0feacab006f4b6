"""The ledger's rows of versions: names, numbers, and the aliases that point to them.

Part of `mulm.ledger.Ledger`. Invariants: an alias points to an existing version; a number means one
manifest for ever, also when its name was taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mulm.errors import ConflictError, NotFoundError, nearest
from mulm.ledger_audit import AuditRows
from mulm.ledger_database import LedgerDatabase
from mulm.ledger_deployments import DeploymentRows
from mulm.ledger_feed import FeedRows
from mulm.ledger_rows import version_of
from mulm.manifest import HOW_TO_MAKE, Kind
from mulm.records import Alias, Pointed, Version
from mulm.refs import Ref, check_alias, check_name


class VersionRows(AuditRows, DeploymentRows, FeedRows):
    """The methods of `Facts` about versions and aliases."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

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
        self.remove_versions([(kind, name, number)])

    def remove_versions(
        self,
        gone: Sequence[tuple[Kind, str, int]],
        only_at: int | None = None,
        noted: Sequence[str] = (),
    ) -> None:
        with self._db.writing():
            if only_at is not None:
                self._require_unmoved(only_at)
            for kind, name, number in gone:
                version = self._numbered(kind, name, number)
                if not version:
                    raise self._not_found(kind, Ref(name, version=number))
                self._require_no_alias(version)
                if kind == "model":
                    self._require_not_served(version.ref)
                row = (kind, name, number, version.manifest_id, self._clock())
                self._db.execute("INSERT INTO removed VALUES (?,?,?,?,?)", row)
                self._db.execute(
                    "DELETE FROM versions WHERE kind=? AND name=? AND number=?", row[:3]
                )
            if noted:
                self.add_audit(*noted)

    def set_alias(
        self, kind: Kind, name: str, alias: str, number: int, only_from: int | None = None
    ) -> None:
        check_alias(alias)
        with self._db.writing():
            version = self._numbered(kind, name, number)
            if version:
                now = self._require_alias_at(kind, name, alias, only_from)
                if now != number:
                    row = (kind, name, alias, number, self._clock())
                    self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?,?,?,?)", row[:4])
                    self._db.execute("INSERT INTO alias_history VALUES (?,?,?,?,?)", row)
        if not version:
            raise self._not_found(kind, Ref(name, version=number))

    def remove_alias(self, kind: Kind, name: str, alias: str, only_from: int | None = None) -> None:
        with self._db.writing():
            if not self._require_alias_at(kind, name, alias, only_from):
                known = [f"{name}@{each}" for each in self.aliases(kind, name)]
                ref = f"{name}@{alias}"
                raise NotFoundError(f"no alias {ref!r}", hint=nearest(ref, known))
            if kind == "model":
                self._require_not_served(f"{name}@{alias}")
            row = (kind, name, alias, 0, self._clock())
            self._db.execute("DELETE FROM aliases WHERE kind=? AND name=? AND alias=?", row[:3])
            self._db.execute("INSERT INTO alias_history VALUES (?,?,?,?,?)", row)

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

    def _numbered(self, kind: Kind, name: str, number: int) -> Version | None:
        row = self._db.one(
            "SELECT * FROM versions WHERE kind=? AND name=? AND number=?", kind, name, number
        )
        return version_of(row) if row else None

    def _require_alias_at(self, kind: Kind, name: str, alias: str, only_from: int | None) -> int:
        """Where it points now, 0 where it is not there. Raises ConflictError for elsewhere."""
        row = self._db.one(
            "SELECT number FROM aliases WHERE kind=? AND name=? AND alias=?", kind, name, alias
        )
        now = row["number"] if row else 0
        if only_from is not None and now != only_from:
            where = f"points to {name}@{now}" if now else "is not there"
            raise ConflictError(f"{name}@{alias} {where} by now", hint="look at it again")
        return int(now)

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
