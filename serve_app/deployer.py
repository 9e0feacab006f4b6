"""Has Serve run the engines that the ledger wants.

Run by the ingress that leads; blocks, so in threads. Invariants: what Serve runs and the ledger
wants differ for a moment only, whoever changed either; the ingress itself is never taken away;
nothing is put where nothing differs; nothing that Serve was not given counts as running.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from mulm.errors import DeadlineError, MulmError, NotRunningError
from mulm.records import Deployment
from serve_app.applications import (
    INGRESS_APPLICATION,
    PATH,
    Config,
    Details,
    Standing,
    body,
    deployed,
    engine_config,
    is_engines,
    is_same,
    standing,
)
from serve_app.deployment_spec import spec_of

_log = logging.getLogger(__name__)

LOOK_AGAIN_S = 15.0
"""How long a difference that somebody else made may last."""

MAX_AGE_S = 1.0
_PUT_TIMEOUT_S = 60.0


class Serve(Protocol):
    """What speaks to Serve's REST API, as `actors.dashboard.Dashboard` does."""

    def request(self, method: str, path: str, body: object = None, timeout_s: float = ...) -> Any:
        """Send JSON, return JSON. Raises MulmError."""


class Deployer:
    """Keeps Serve's applications as they are wanted.

    Args:
        serve: Serve's REST API.
        clock: Seconds.
    """

    def __init__(self, serve: Serve, clock: Callable[[], float] = time.monotonic) -> None:
        self._serve, self._clock = serve, clock
        self._lock = threading.Lock()
        self._wanted: dict[str, Config] = {}
        self._given: dict[str, Config] = {}
        self._revisions: dict[str, int] = {}
        self._details: Details = {}
        self._seen_s = self._put_s = float("-inf")
        self.problem = ""
        """Why Serve refuses what is wanted."""
        self._away = ""

    def apply(self, deployments: Iterable[Deployment]) -> None:
        """Put what is wanted, if that is something else, or if it was long ago."""
        deployments = list(deployments)
        wanted, revisions = wanted_configs(deployments), _revisions(deployments)
        with self._lock:
            before, self._revisions = self._revisions, revisions
            changed = {name for name in wanted if before.get(name) not in (None, revisions[name])}
            is_old = self._clock() - self._put_s > LOOK_AGAIN_S
            if wanted == self._given and not is_old and not changed:
                self._wanted = wanted
                return
            self._wanted, self._put_s = wanted, self._clock()
            try:
                # What failed and is asked for again goes first, and comes at the next look.
                failed = self._failed(changed)
                wanted = {name: config for name, config in wanted.items() if name not in failed}
                self._put(wanted)
            except (NotRunningError, DeadlineError) as error:
                self._is_away(error)
            except MulmError as error:
                _log.warning("deployments are not applied reason=%s", error.message)
                self.problem = error.message
            else:
                self._given, self.problem = wanted, ""

    def watch(self, deployments: Iterable[Deployment]) -> None:
        """Know what is wanted, while another ingress has Serve run it."""
        with self._lock:
            self._wanted = self._given = wanted_configs(deployments)
            self._revisions, self._put_s, self.problem = {}, float("-inf"), ""

    def details(self) -> Details:
        """What Serve says of all applications, at most a second old; nothing while it is away."""
        with self._lock:
            if self._clock() - self._seen_s > MAX_AGE_S:
                try:
                    self._look()
                except MulmError as error:
                    self._is_away(error)
            return self._details

    def standing(self, application: str) -> Standing:
        """How a wanted application stands."""
        config = self._wanted.get(application)
        if config is None or config != self._given.get(application):
            return Standing("failed", self.problem) if self.problem else self._starting()
        found = standing(self.details(), config)
        return self._starting() if self._away else found

    def _failed(self, applications: Iterable[str]) -> set[str]:
        """Which of them Serve has given up with the very config that is wanted."""
        same = [name for name in applications if self._given.get(name) == self._wanted[name]]
        if same:
            self._look()
        return {n for n in same if standing(self._details, self._wanted[n]).state == "failed"}

    def _put(self, wanted: dict[str, Config]) -> None:
        self._look()
        there = deployed(self._details)
        if INGRESS_APPLICATION not in there:
            _log.warning("the ingress is not among the applications; nothing is changed")
            return
        engines = {name for name in there if is_engines(name)}
        if engines == wanted.keys() and all(is_same(there[n], wanted[n]) for n in wanted):
            return
        others = {name: config for name, config in there.items() if name not in engines}
        _log.info("deployments change applications=%s", ",".join(sorted(wanted)) or "none")
        self._serve.request("PUT", PATH, body(others | wanted), timeout_s=_PUT_TIMEOUT_S)
        self._seen_s = float("-inf")

    def _look(self) -> None:
        self._details = self._serve.request("GET", PATH)
        self._seen_s, self._away = self._clock(), ""

    def _is_away(self, error: MulmError) -> None:
        _log.warning("Serve is not reached now reason=%s", error.message)
        self._details, self._seen_s, self._away = {}, self._clock(), error.message

    def _starting(self) -> Standing:
        return Standing("starting", self._away)


def _revisions(deployments: Iterable[Deployment]) -> dict[str, int]:
    return {
        application: deployment.revision
        for deployment in deployments
        for application in spec_of(deployment).engines
    }


def wanted_configs(deployments: Iterable[Deployment]) -> dict[str, Config]:
    """The applications of all deployments, by name."""
    return {
        application: engine_config(application, args)
        for deployment in deployments
        for application, args in spec_of(deployment).engines.items()
    }
