"""The ledger's rows about deployments: what is to be served, and what was before.

A part of `mulm.ledger.Ledger`. Invariants: revisions of a name count 1, 2, 3 ... also over a
removal; a revision never changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mulm.errors import ConflictError, NotFoundError, nearest
from mulm.ledger_answers import note_made, was_made
from mulm.ledger_database import LedgerDatabase, Row
from mulm.ledger_rows import dumped, loaded
from mulm.records import Claim, Deployment
from mulm.refs import check_name

_NEWEST = """
SELECT d.*, (SELECT min(set_s) FROM deployments e WHERE e.name = d.name AND e.revision >
    (SELECT coalesce(max(revision), 0) FROM deployments f WHERE f.name = d.name AND f.spec IS NULL)
) AS created_s FROM deployments d
WHERE revision = (SELECT max(revision) FROM deployments g WHERE g.name = d.name)
"""
_LOOK = "look at it again"


class DeploymentRows:
    """Deployments in the database of a ledger."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def set_deployment(
        self,
        name: str,
        spec: Mapping[str, Any] | None,
        reason: str,
        only_from: int | None = None,
        beside: Mapping[str, int] | None = None,
        claim: Claim | None = None,
    ) -> int | None:
        check_name(name)
        with self._db.writing():
            newest = self._db.one(f"{_NEWEST} AND name=?", name)
            last = int(newest["revision"]) if newest else 0
            if was_made(self._db, claim, name):
                return last
            now = last if newest and newest["spec"] is not None else 0
            if only_from is not None and now != only_from:
                where = f"is at revision {now}" if now else "is not there"
                raise ConflictError(f"the deployment {name!r} {where} by now", hint=_LOOK)
            if beside is not None and self._beside(name) != beside:
                return None
            note_made(self._db, claim, name)
            if now or spec is not None:
                row = (name, last + 1, dumped(spec), self._clock(), reason)
                self._db.execute("INSERT INTO deployments VALUES (?,?,?,?,?)", row)
        if not now and spec is None:
            raise self._no_deployment(name)
        return last + 1

    def deployments(self) -> list[Deployment]:
        rows = self._db.all(f"{_NEWEST} AND spec IS NOT NULL ORDER BY name")
        return [_deployment_of(row) for row in rows]

    def deployment(self, name: str) -> Deployment:
        rows = self._db.all(f"{_NEWEST} AND spec IS NOT NULL AND name=?", name)
        if not rows:
            raise self._no_deployment(name)
        return _deployment_of(rows[0])

    def deployment_history(self, name: str) -> list[Deployment]:
        rows = self._db.all(
            "SELECT *, set_s AS created_s FROM deployments WHERE name=? ORDER BY revision DESC",
            name,
        )
        return [_deployment_of(row) for row in rows]

    def _beside(self, name: str) -> dict[str, int]:
        """Within `writing`: the revisions of all other deployments."""
        rows = self._db.all_inside(f"{_NEWEST} AND spec IS NOT NULL AND name<>?", name)
        return {row["name"]: row["revision"] for row in rows}

    def _require_not_served(self, ref: str) -> None:
        """Within `writing`; for versions and aliases of models."""
        found = self._db.one(f"{_NEWEST} AND instr(spec, ?)", json.dumps(ref))
        if found:
            raise ConflictError(
                f"{ref} is served as {found['name']!r}",
                hint=f"`mulm serve {found['name']} --stop` ends that",
            )

    def _no_deployment(self, name: str) -> NotFoundError:
        hint = nearest(name, [each.name for each in self.deployments()])
        return NotFoundError(f"no deployment {name!r}", hint=hint)


def _deployment_of(row: Row) -> Deployment:
    spec = None if row["spec"] is None else loaded(row["spec"])
    return Deployment(**{**row, "spec": spec})
