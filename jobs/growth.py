"""Room for more workers, seen while a run that has lost some goes on with less.

Asked by `jobs.train`. Invariants: room counts when it has been there for a while, since a machine
that comes is measured first; a cluster that does not answer changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ray.exceptions import RayError

_log = logging.getLogger(__name__)

FIRST_S = 60.0
"""How long a group runs at least before it is stopped for a larger one."""
LOOK_S = 5.0
STEADY_LOOKS = 3


class Growth:
    """Of one group.

    Args:
        count: How much there is beside it: workers that have room, or machines.
        n_before: How much there was when it began.
        now_s: A clock.
    """

    def __init__(
        self, count: Callable[[], int], n_before: int, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._count, self._n_before, self._now_s = count, n_before, now_s
        self._next_s: float | None = None
        self._n_seen = 0

    def is_due(self) -> bool:
        """Whether the group is to stop for a larger one: once, then again after a while."""
        if self._next_s is None:  # asked from the group's start on
            self._next_s = self._now_s() + FIRST_S
        if self._now_s() < self._next_s:
            return False
        try:
            has_room = self._count() > self._n_before
        except RayError as error:
            _log.warning("the cluster does not answer error=%s", error)
            has_room = False
        self._n_seen = self._n_seen + 1 if has_room else 0
        is_due = self._n_seen >= STEADY_LOOKS
        self._next_s = self._now_s() + (FIRST_S if is_due else LOOK_S)
        return is_due
