"""How deployments stand: what the ledger wants beside what Serve runs and what engines report.

Asked by the routes of deployments. Pure but for a question to Serve that is at most a second old.
Invariant: `running` is said only where an engine answers with what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from serve_app.applications import ENGINE, Details, State, last_line
from serve_app.deployed import Deployed
from serve_app.deployer import Deployer
from serve_app.engine_report import EngineReport

_STATES = {"RUNNING": "running", "STOPPING": "stopping"}


class ServedState:
    """Looks at what one ingress serves.

    Args:
        serving: The deployments by name.
        deployer: Knows how Serve's applications stand.
        reports: The newest of each engine.
    """

    def __init__(
        self,
        serving: Mapping[str, Deployed],
        deployer: Deployer,
        reports: Callable[[], Collection[EngineReport]],
    ) -> None:
        self._serving, self._deployer, self._reports = serving, deployer, reports

    def status(self, name: str, revision: int) -> tuple[State, str]:
        """How a revision of a deployment stands, and why where that is not obvious."""
        deployed = self._serving.get(name)
        if deployed is None or deployed.revision != revision:
            return "starting", ""
        for application, followed in deployed.followed.items():
            found = self._deployer.standing(application)
            if found.state == "failed":
                return "failed", last_line(found.words)
            if followed.problem:
                return "failed", followed.problem
            if found.state == "starting" or not followed.is_current:
                return "starting", found.words
        return "running", ""

    def serves(self, name: str) -> dict[str, str]:
        """What clients can ask of it now: names and the versions that they mean."""
        deployed = self._serving.get(name)
        if deployed is None or deployed.served is None:
            return {}
        return {each.name: each.ref for each in deployed.served.usable}

    def canary(self, name: str) -> dict[str, Any]:
        """How requests to its own model and to its canary have ended."""
        deployed = self._serving.get(name)
        if deployed is None:
            return {}
        told = {}
        for role, tally in zip(("itself", "canary"), deployed.tallies, strict=True):
            wait_s = tally.usual_first_token_s
            told[role] = {
                "requests": len(tally.has_failed),
                "failures_percent": round(tally.failures, 2),
                "first_token_s": None if wait_s is None else round(wait_s, 4),
            }
        return told

    def replicas(self, name: str) -> list[dict[str, Any]]:
        """Every engine of it, those that just start too."""
        deployed = self._serving.get(name)
        if deployed is None:
            return []
        details = self._deployer.details()
        reports = {report.place.replica: report for report in self._reports()}
        return [
            _replica(each, application, reports.get(str(each.get("replica_id", ""))))
            for application in deployed.followed
            for each in _replicas(details, application)
        ]


def _replicas(details: Details, application: str) -> list[Mapping[str, Any]]:
    found = details.get("applications", {}).get(application, {})
    return list(found.get("deployments", {}).get(ENGINE, {}).get("replicas", []))


def _replica(
    told: Mapping[str, Any], application: str, report: EngineReport | None
) -> dict[str, Any]:
    made = {
        "id": str(told.get("replica_id", "")),
        "object": "replica",
        "application": application,
        "state": _STATES.get(str(told.get("state")), "starting"),
        "node": told.get("node_ip"),
        "pid": told.get("pid"),
        "started_at": int(told.get("start_time_s") or 0),
    }
    if report is None:
        return made
    stats, place = report.stats, report.place
    return made | {
        "model_id": report.model_id,
        "device": place.device,
        "dtype": place.dtype,
        "memory_bytes": place.memory_bytes,
        "running": stats.n_running,
        "waiting": report.n_waiting,
        "kv_use": round(report.kv_use, 4),
        "tokens_per_s": report.tokens_per_s,
    }
