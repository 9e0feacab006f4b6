"""Which engine of an application answers a request, and the line of those that find no place.

Held by `serve_app.engine_links`, asked by `serve_app.serve_client`. A prompt goes where its
beginning is kept, else to the least busy engine. Invariants: who came first goes first; the line is
bounded by requests and by tokens, and who finds it full is told so before anything is sent; who
stops reading has his request cancelled, wherever it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, field, replace

from mulm.errors import DeadlineError, MulmError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import EngineBusyError, EngineLostError
from serve_app.engine_link import EngineLink, Mailbox
from serve_app.prefix_key import home_of, key_of

_RETRY = "try again in a moment"
_TIMES_THE_PAGES = 2
"""Tokens of prompts that may wait, of what the engines' pages hold."""


@dataclass(slots=True, eq=False)
class _Asking:
    """One request, from its arrival to its end."""

    model_id: str
    request: GenerateRequest
    key: str
    begun_s: float
    called: asyncio.Future[None] | None = None
    """Done when it is its turn, or when nobody will have it; None where nothing is waited for."""
    link: EngineLink | None = None
    mailbox: Mailbox = field(default_factory=Mailbox)


class EngineLine:
    """The engines of one application, and who waits for them.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.links: set[EngineLink] = set()
        self._waiting: deque[_Asking] = deque()

    @property
    def is_there(self) -> bool:
        """Whether an engine can be asked, now or after others."""
        return any(link.is_usable for link in self.links)

    @property
    def is_fresh(self) -> bool:
        """Whether one was heard lately."""
        return any(link.is_usable and link.is_fresh for link in self.links)

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """The tokens of a request; closing it cancels.

        Raises:
            EngineLostError: no engine has it any more.
            OverloadedError: too many wait.
            DeadlineError: its time was over before its turn.
            MulmError: what the engine says.
        """
        asking = _Asking(model_id, request, key_of(request.prompt_ids), self._clock())
        n_open = request.n
        try:
            self._enter(asking)
            while n_open:
                item = await self._next(asking)
                if isinstance(item, EngineBusyError):
                    self._enter_again(asking)
                elif isinstance(item, MulmError):
                    n_open = 0
                    raise item
                else:
                    n_open -= item.finish_reason is not None
                    yield item
        finally:
            self._leave(asking, cancels=n_open > 0)

    def serve(self) -> None:
        """Send what waits as far as there are places; called when something has changed."""
        while self._waiting and self._place(self._waiting[0]):
            _call(self._waiting.popleft())
        if self._waiting and not self.is_there:
            while self._waiting:
                _call(self._waiting.popleft())

    def tell_waiting(self) -> None:
        """Have the engines count what waits here among their work."""
        usable = [link for link in self.links if link.is_usable]
        for number, link in enumerate(sorted(usable, key=lambda each: each.name)):
            link.tell_waiting((len(self._waiting) + number) // len(usable))

    async def _next(self, asking: _Asking) -> TokenChunk | MulmError:
        if asking.called is None:
            return await asking.mailbox.get()
        try:
            async with asyncio.timeout(asking.request.deadline_s):
                await asking.called
        except TimeoutError:
            raise DeadlineError(
                "the answer was not begun in time", hint="ask for fewer tokens"
            ) from None
        asking.called = None
        if asking.link is None:
            raise EngineLostError("the engine went away", hint=_RETRY)
        return await asking.mailbox.get()

    def _enter(self, asking: _Asking) -> None:
        if self._waiting or not self._place(asking):
            self._require_room(asking)
            asking.called = asyncio.get_running_loop().create_future()
            self._waiting.append(asking)
            self.serve()

    def _enter_again(self, asking: _Asking) -> None:
        """An engine has refused it that looked as if it had a place: it is the next one's turn."""
        assert asking.link is not None
        asking.link.close(asking.request.request_id, cancels=False)
        asking.link.is_full()
        asking.link = None
        asking.called = asyncio.get_running_loop().create_future()
        self._waiting.appendleft(asking)
        self.serve()

    def _leave(self, asking: _Asking, *, cancels: bool) -> None:
        if asking.link is not None:
            asking.link.close(asking.request.request_id, cancels=cancels)
        elif asking in self._waiting:
            self._waiting.remove(asking)
        self.serve()

    def _place(self, asking: _Asking) -> bool:
        """Send it where there is a place for it; whether there is one."""
        link = choose(self.links, asking.key)
        if link is None:
            return False
        rest_s = asking.request.deadline_s - (self._clock() - asking.begun_s)
        request = replace(asking.request, deadline_s=rest_s)
        asking.link, asking.mailbox = link, link.open(asking.model_id, request)
        return True

    def _require_room(self, asking: _Asking) -> None:
        offers = [link.offer.max_queued for link in self.links if link.offer is not None]
        n_tokens = sum(len(each.request.prompt_ids) for each in (*self._waiting, asking))
        room = _TIMES_THE_PAGES * sum(link.n_tokens for link in self.links if link.is_usable)
        is_long = len(self._waiting) >= max(offers, default=1)
        if is_long or (self._waiting and room and n_tokens > room):
            raise OverloadedError("every replica is busy and the waiting line is full", hint=_RETRY)


def choose(links: Collection[EngineLink], key: str) -> EngineLink | None:
    """Who is asked next: the key's home while it has a free slot, else the least busy; or nobody.

    Which engine is the home depends on the key and the engines alone, so all ingresses agree.
    """
    free = [link for link in links if link.can_take]
    free = [link for link in free if link.is_fresh] or free
    if not free:
        return None
    if key:
        by_name = {link.name: link for link in links if link.is_usable}
        home = by_name[home_of(key, by_name)]
        if home in free and home.has_free_slot:
            return home
    return min(free, key=lambda link: (link.load, link.name))


def _call(asking: _Asking) -> None:
    if asking.called is not None and not asking.called.done():
        asking.called.set_result(None)
