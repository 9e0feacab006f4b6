"""New events of runs, to any number of subscribers.

Held by the control API. While a run has subscribers, one task looks for its new events a few times
a second and hands them to all. Invariants: a subscriber gets every event behind the one that it
names once and in order, whatever happens meanwhile; one that reads slowly reads from the ledger and
keeps nobody waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from mulm.errors import MulmError
from mulm.facts import ENDED, Event, Facts

_log = logging.getLogger(__name__)

PERIOD_S = 0.1
_LIMIT = 500
_N_KEPT = 2000


@dataclass(slots=True, eq=False)
class _Watched:
    """One run while somebody listens."""

    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=_N_KEPT))
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    n_subscribers: int = 0
    last_seq: int = -1
    task: asyncio.Task[None] | None = None

    def behind(self, after: int) -> list[Event] | None:
        """What is behind an event; None where only the ledger knows."""
        if after >= self.last_seq >= 0:
            return []
        if not self.recent or self.recent[0].seq > after + 1:
            return None
        return [event for event in self.recent if event.seq > after]

    async def wait(self, after: int) -> None:
        """Until there is something behind an event."""
        async with self.news:
            await self.news.wait_for(lambda: self.last_seq > after)


class EventFeed:
    """Follows runs in the ledger.

    Args:
        facts: May block; asked in threads.
        period_s: Seconds between two looks.
    """

    def __init__(self, facts: Facts, period_s: float = PERIOD_S) -> None:
        self._facts, self._period_s = facts, period_s
        self._watched: dict[str, _Watched] = {}

    async def events(self, run_id: str, after: int) -> AsyncGenerator[Event, None]:
        """All events of a run behind `after`, as they come, until the run has ended.

        Raises:
            NotFoundError: there is no such run.
            NotRunningError: the ledger does not answer.
        """
        await asyncio.to_thread(self._facts.run, run_id)
        watched = self._watched.setdefault(run_id, _Watched())
        watched.n_subscribers += 1
        if watched.task is None:
            watched.task = asyncio.create_task(self._watch(run_id, watched))
        try:
            while True:
                found = watched.behind(after)
                if found is None:
                    found = await asyncio.to_thread(self._facts.events, run_id, after, _LIMIT)
                for event in found:
                    yield event
                    after = event.seq
                if await self._has_ended(run_id, found):
                    return
                await watched.wait(after)
        finally:
            watched.n_subscribers -= 1
            if not watched.n_subscribers:
                self._watched.pop(run_id, None)
                watched.task.cancel()

    async def _has_ended(self, run_id: str, found: list[Event]) -> bool:
        """Whether nothing will come any more behind what was found."""
        if found:
            return _is_end(found[-1])
        run = await asyncio.to_thread(self._facts.run, run_id)
        return run.has_ended

    async def _watch(self, run_id: str, watched: _Watched) -> None:
        """Look for news as long as the feed has subscribers for the run."""
        while True:
            try:
                await self._look(run_id, watched)
            except MulmError as error:
                _log.warning("events are late run=%s reason=%s", run_id, error.message)
            await asyncio.sleep(self._period_s)

    async def _look(self, run_id: str, watched: _Watched) -> None:
        if watched.last_seq < 0:
            newest = await asyncio.to_thread(self._facts.last_event, run_id)
            found, last_seq = [], newest.seq if newest else 0
        else:
            found = await asyncio.to_thread(self._facts.events, run_id, watched.last_seq, _LIMIT)
            last_seq = found[-1].seq if found else watched.last_seq
        if last_seq != watched.last_seq:
            async with watched.news:
                watched.recent += found
                watched.last_seq = last_seq
                watched.news.notify_all()


def _is_end(event: Event) -> bool:
    return event.kind == "phase" and event.data.get("phase") in ENDED
