"""The owner of all limits as an actor: which ingress holds how much of each.

`LimiterHost` is a plain class around `mulm.limits_leases.LeaseBook`; `open_limiter` makes it the
detached actor "limiter" where something is limited. Invariants: it keeps nothing, since each who
asks tells what it holds; nobody waits for it longer than `TIMEOUT_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from actors.ledger_host import NAMESPACE
from actors.placement import on_this_machine
from actors.remote_answer import HINT, answer
from mulm.errors import NotRunningError
from mulm.limits_leases import Ask, Grants, LeaseBook

ACTOR_NAME = "limiter"
TIMEOUT_S = 5.0


class LimiterHost:
    """Shares limits out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._book = LeaseBook(clock())

    def renew(self, holder: str, asks: Mapping[str, Ask]) -> Grants:
        """As `LeaseBook.renew`, now."""
        return self._book.renew(holder, self._clock(), asks)

    def leave(self, holder: str) -> None:
        """As `LeaseBook.leave`."""
        self._book.leave(holder)


class LimiterClient:
    """The owner of all limits through the cluster; safe to share between threads."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def renew(self, holder: str, asks: Mapping[str, Ask]) -> Grants:
        """As `LeaseBook.renew`.

        Raises:
            MulmError: it does not answer.
        """
        reference = self._handle.renew.remote(holder, dict(asks))
        granted: Grants = answer(reference, "limiter", "renew", TIMEOUT_S)
        return granted

    def leave(self, holder: str) -> None:
        """As `LeaseBook.leave`. Raises MulmError."""
        answer(self._handle.leave.remote(holder), "limiter", "leave", TIMEOUT_S)


def open_limiter() -> LimiterClient:
    """The actor of the cluster that this process is connected to; made where there is none.

    Raises:
        NotRunningError: not connected.
    """
    if not ray.is_initialized():  # asked for an actor, Ray would start a cluster of its own
        raise NotRunningError("this process is connected to no cluster", hint=HINT)
    handle = (
        ray.remote(LimiterHost)
        .options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=on_this_machine(),
        )
        .remote()
    )
    return LimiterClient(handle)
