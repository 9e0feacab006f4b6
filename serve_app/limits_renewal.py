"""Has this ingress's part of each limit renewed by the owner of all limits.

Held by the ingress. Invariants: nobody waits for it; while the owner is away, what was granted last
holds, and of a limit that is new this ingress takes its part among equals: never all, once it has
heard of others, and never more than all. Where nothing is limited there is no owner.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Protocol

from mulm.errors import MulmError
from mulm.limits_leases import RENEWAL_S, Ask, Grants
from serve_app.limiter import Limiter

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """The owner of all limits, as its client shows it."""

    def renew(self, holder: str, asks: Mapping[str, Ask]) -> Grants:
        """As `LeaseBook.renew`; may block."""

    def leave(self, holder: str) -> None:
        """As `LeaseBook.leave`."""


class LimitsRenewal:
    """Asks every second.

    Args:
        limiter: Is told what it was granted.
        connect: The owner; made where there is none.
        period_s: Seconds between two questions.
    """

    def __init__(
        self, limiter: Limiter, connect: Callable[[], Owner], period_s: float = RENEWAL_S
    ) -> None:
        self._limiter, self._connect, self._period_s = limiter, connect, period_s
        self._name = secrets.token_hex(8)
        self._owner: Owner | None = None
        self._is_away = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask from now on; harmless when it does."""
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Give up what is held."""
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        if self._owner is not None:
            try:
                await asyncio.to_thread(self._owner.leave, self._name)
            except MulmError as error:
                _log.warning("limits are given up when they run out why=%s", error.message)

    async def renew(self) -> None:
        """Ask once, unless nothing is limited."""
        asks = self._limiter.asks()
        if not asks and self._owner is None:
            return
        try:
            self._limiter.apply(await asyncio.to_thread(self._ask, asks))
        except MulmError as error:
            if not self._is_away:
                _log.warning("limits stay as they were granted last why=%s", error.message)
            self._is_away = True
        else:
            self._is_away = False

    def _ask(self, asks: Mapping[str, Ask]) -> Grants:
        if self._owner is None:
            self._owner = self._connect()
        try:
            return self._owner.renew(self._name, asks)
        except MulmError:
            self._owner = None  # it may have come up anew under another handle
            raise

    async def _work(self) -> None:
        while True:
            try:
                await self.renew()
            except Exception:  # noqa: BLE001 - whatever carries the question: limits hold as they are
                _log.exception("limits were not renewed")
            await asyncio.sleep(self._period_s)
