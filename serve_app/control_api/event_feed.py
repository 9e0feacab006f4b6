"""New events of runs, and of the whole installation, to any number of subscribers.

Held by the control API. While a topic has subscribers, one task looks for its news a few times a
second and hands them to all. Invariants: a subscriber gets every event behind the one that it names
once and in order, whatever happens meanwhile, and what happens from now on where it names one that
is not there yet; one that reads slowly reads from the ledger and keeps nobody waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from mulm.errors import MulmError
from mulm.facts import Facts
from mulm.records import ENDED, Event, Happening

_log = logging.getLogger(__name__)

PERIOD_S = 0.1
_LIMIT = 500
_N_KEPT = 2000


class Numbered(Protocol):
    """What has a number in its topic."""

    @property
    def seq(self) -> int:
        """Counts up."""


E = TypeVar("E", bound=Numbered)


class Topic(Protocol[E]):
    """What can be subscribed to; all of it may block."""

    def behind(self, after: int, limit: int) -> list[E]:
        """The events behind a number, in order."""

    def newest(self) -> int:
        """The number of the last; 0 without one."""

    def is_over(self, found: list[E]) -> bool:
        """Whether nothing will come behind what was just found."""


@dataclass(frozen=True, slots=True)
class RunTopic:
    """The events of one run."""

    facts: Facts
    run_id: str

    def behind(self, after: int, limit: int) -> list[Event]:
        """As `Topic.behind`."""
        return self.facts.events(self.run_id, after, limit)

    def newest(self) -> int:
        """As `Topic.newest`."""
        newest = self.facts.last_event(self.run_id)
        return newest.seq if newest else 0

    def is_over(self, found: list[Event]) -> bool:
        """As `Topic.is_over`: the phase says so, in the last event or in the run."""
        if found:
            return found[-1].kind == "phase" and found[-1].data.get("phase") in ENDED
        return self.facts.run(self.run_id).has_ended


@dataclass(frozen=True, slots=True)
class EverythingTopic:
    """Whatever happens to the installation."""

    facts: Facts

    def behind(self, after: int, limit: int) -> list[Happening]:
        """As `Topic.behind`."""
        return self.facts.happenings(after, limit)

    def newest(self) -> int:
        """As `Topic.newest`."""
        return self.facts.last_happening()

    def is_over(self, _found: list[Happening]) -> bool:
        """As `Topic.is_over`: never."""
        return False


@dataclass(slots=True, eq=False)
class _Watched(Generic[E]):
    """A topic while somebody listens."""

    topic: Topic[E]
    recent: deque[E] = field(default_factory=lambda: deque(maxlen=_N_KEPT))
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    n_subscribers: int = 0
    last_seq: int = -1
    task: asyncio.Task[None] | None = None

    def behind(self, after: int) -> list[E] | None:
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

    async def look(self) -> None:
        """Hand what is new to all who wait."""
        if self.last_seq < 0:
            found, last_seq = [], await asyncio.to_thread(self.topic.newest)
        else:
            found = await asyncio.to_thread(self.topic.behind, self.last_seq, _LIMIT)
            last_seq = found[-1].seq if found else self.last_seq
        if last_seq != self.last_seq:
            async with self.news:
                self.recent += found
                self.last_seq = last_seq
                self.news.notify_all()


class EventFeed:
    """Follows topics in the ledger.

    Args:
        facts: May block; asked in threads.
        period_s: Seconds between two looks.
    """

    def __init__(self, facts: Facts, period_s: float = PERIOD_S) -> None:
        self._facts, self._period_s = facts, period_s
        self._runs: dict[str, _Watched[Event]] = {}
        self._everything: dict[str, _Watched[Happening]] = {}

    async def events(self, run_id: str, after: int) -> AsyncGenerator[Event, None]:
        """All events of a run behind `after`, as they come, until the run has ended.

        Raises:
            NotFoundError: there is no such run.
            NotRunningError: the ledger does not answer.
        """
        await asyncio.to_thread(self._facts.run, run_id)
        topic = RunTopic(self._facts, run_id)
        async with aclosing(self._follow(self._runs, run_id, topic, after)) as found:
            async for event in found:
                yield event

    async def happenings(self, after: int) -> AsyncGenerator[Happening, None]:
        """All that happened to the installation behind `after`, as it comes, for ever.

        Raises:
            NotRunningError: the ledger does not answer.
        """
        topic = EverythingTopic(self._facts)
        async with aclosing(self._follow(self._everything, "", topic, after)) as found:
            async for happening in found:
                yield happening

    async def _follow(
        self, all_watched: dict[str, _Watched[E]], name: str, topic: Topic[E], after: int
    ) -> AsyncGenerator[E, None]:
        watched = all_watched.setdefault(name, _Watched(topic))
        watched.n_subscribers += 1
        if watched.task is None:
            watched.task = asyncio.create_task(self._watch(name, watched))
        try:
            if after > watched.last_seq:  # beyond the newest, as after a restore: from now on
                after = min(after, await asyncio.to_thread(topic.newest))
            while True:
                found = watched.behind(after)
                if found is None:
                    found = await asyncio.to_thread(topic.behind, after, _LIMIT)
                for event in found:
                    yield event
                    after = event.seq
                if await asyncio.to_thread(topic.is_over, found):
                    return
                await watched.wait(after)
        finally:
            watched.n_subscribers -= 1
            if not watched.n_subscribers:
                all_watched.pop(name, None)
                watched.task.cancel()

    async def _watch(self, name: str, watched: _Watched[E]) -> None:
        """Look for news as long as the topic has subscribers."""
        while True:
            try:
                await watched.look()
            except MulmError as error:
                _log.warning("events are late topic=%s reason=%s", name, error.message)
            except Exception:  # noqa: BLE001 - nothing may end what subscribers wait for
                _log.exception("events are late topic=%s", name)
            await asyncio.sleep(self._period_s)
