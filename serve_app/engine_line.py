"""Which engine of an application answers a request, and the line of those that find no place.

Held by `serve_app.engine_links`, asked by `serve_app.serve_client`. A prompt goes where most of its
beginning is kept, unless others have much less to do. Invariants: who came first goes first; the
line is bounded by requests and by tokens, and who finds it full is told so before anything is sent;
who stops reading has his request cancelled, wherever it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import replace

from mulm.errors import DeadlineError, MulmError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import EngineBusyError, EngineLostError
from serve_app.engine_link import EngineLink
from serve_app.prefix_key import home_of, marks_of
from serve_app.waiting_line import Asking, WaitingLine

_RETRY = "try again in a moment"
_TIMES_THE_PAGES = 2
"""Tokens of prompts that may wait, of what the engines' pages hold."""
_LEAST_PIECES = 2
"""Of a shorter beginning there is little to read again."""
_LOAD_FOR_KEPT = 0.5
"""How much busier an engine may be that keeps the whole prompt, of its load at most."""
_LOAD_FOR_HOME = 0.25
"""The same for one where another ingress may have sent the beginning: that is a guess."""


class EngineLine:
    """The engines of one application, and who waits for them.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.links: set[EngineLink] = set()
        self._waiting = WaitingLine()

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
        marks = marks_of(model_id, request.adapter, request.prompt_ids)
        asking = Asking(model_id, request, marks, self._clock())
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
                    if not item.index:
                        asking.answer_ids += item.token_ids
                    yield item
        finally:
            self._leave(asking, cancels=n_open > 0)

    def serve(self) -> None:
        """Send what waits as far as there are places; called when something has changed."""
        while self._waiting and self._place(self._waiting.first):
            self._call_first()
        if self._waiting and not self.is_there:
            while self._waiting:
                self._call_first()

    def tell_waiting(self) -> None:
        """Have the engines count what waits here among their work, each an equal share."""
        usable = sorted((each for each in self.links if each.is_usable), key=lambda each: each.name)
        for number, link in enumerate(usable):
            n_requests = (len(self._waiting) + number) // len(usable)
            link.tell_waiting(n_requests, (self._waiting.n_tokens + number) // len(usable))
        for link in self.links.difference(usable):
            link.tell_waiting(0, 0)

    def _call_first(self) -> None:
        asking = self._waiting.first
        self._waiting.discard(asking)
        if asking.called is not None and not asking.called.done():
            asking.called.set_result(None)

    async def _next(self, asking: Asking) -> TokenChunk | MulmError:
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

    def _enter(self, asking: Asking) -> None:
        if self._waiting or not self._place(asking):
            self._require_room(asking)
            asking.called = asyncio.get_running_loop().create_future()
            self._waiting.add(asking)
            self.serve()

    def _enter_again(self, asking: Asking) -> None:
        """An engine has refused it that looked as if it had a place: it is the next one's turn."""
        assert asking.link is not None
        asking.link.close(asking.request.request_id, cancels=False)
        asking.link.is_full()
        asking.link = None
        asking.called = asyncio.get_running_loop().create_future()
        self._waiting.add_again(asking)
        self.serve()

    def _leave(self, asking: Asking, *, cancels: bool) -> None:
        if asking.link is not None:
            asking.link.close(asking.request.request_id, cancels=cancels)
            self._note_kept(asking, asking.link)
        else:
            self._waiting.discard(asking)
        self.serve()

    def _note_kept(self, asking: Asking, link: EngineLink) -> None:
        """A chat goes on where its last answer was made."""
        request = asking.request
        text_ids = (*request.prompt_ids, *asking.answer_ids)
        link.note_kept(marks_of(asking.model_id, request.adapter, text_ids))

    def _place(self, asking: Asking) -> bool:
        """Send it where there is a place for it; whether there is one."""
        link = choose(self.links, asking.marks)
        if link is None:
            return False
        rest_s = asking.request.deadline_s - (self._clock() - asking.begun_s)
        request = replace(asking.request, deadline_s=rest_s)
        asking.link, asking.mailbox = link, link.open(asking.model_id, request)
        link.note_kept(asking.marks)
        return True

    def _require_room(self, asking: Asking) -> None:
        offers = [link.offer.max_queued for link in self.links if link.offer is not None]
        n_tokens = self._waiting.n_tokens + len(asking.request.prompt_ids)
        room = _TIMES_THE_PAGES * sum(link.n_tokens for link in self.links if link.is_usable)
        is_long = len(self._waiting) >= max(offers, default=1)
        if is_long or (self._waiting and room and n_tokens > room):
            raise OverloadedError("every replica is busy and the waiting line is full", hint=_RETRY)


def choose(links: Collection[EngineLink], marks: Sequence[int]) -> EngineLink | None:
    """Who is asked next for a prompt of these marks; or nobody.

    The least busy, where what an engine keeps of the prompt makes up for some of its load, as long
    as it has a free slot. Of a beginning that is new here, the home is a guess that all ingresses
    share.
    """
    free = [link for link in links if link.can_take]
    free = [link for link in free if link.is_fresh] or free
    ready = [link for link in free if link.has_free_slot]
    if not ready or len(marks) < _LEAST_PIECES:
        return min(free, key=lambda link: (link.load, link.name), default=None)
    kept = {link: link.n_kept(marks) for link in ready}
    if max(kept.values()) < _LEAST_PIECES:
        home = home_of(marks[_LEAST_PIECES - 1], [link.name for link in links if link.is_usable])
        worth = {link: _LOAD_FOR_HOME * (link.name == home) for link in ready}
    else:
        worth = {link: _LOAD_FOR_KEPT * n / len(marks) for link, n in kept.items()}
    return min(ready, key=lambda link: (link.load - worth[link], -worth[link], link.name))
