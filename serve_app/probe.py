"""One question to the engine for all who ask whether it is ready.

Used by `serve_app.service` for `/readyz`, which needs no key. Invariant: however many ask, the
engine is asked about once a second, by one question at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

MAX_AGE_S = 1.0


class Probe:
    """The newest answer, asked for again when it is older than `MAX_AGE_S`.

    Args:
        ask: The question; must not raise.
        clock: Seconds.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[bool]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._asked_s = float("-inf")
        self._answer: asyncio.Future[bool] | None = None

    async def __call__(self) -> bool:
        """The answer."""
        now_s = self._clock()
        is_old = now_s - self._asked_s > MAX_AGE_S
        if self._answer is None or (is_old and self._answer.done()):
            self._asked_s = now_s
            self._answer = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._answer)
