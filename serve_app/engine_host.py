"""The engine host: one replica that owns the model's weights.

Made a deployment in `serve_app.app`; asked by ingresses over its own connections to them
(`serve_app.ingress_links`), and over a Serve handle where there is none. It takes its
model from the store, and another one in place, when it is told to or when the alias that it serves
moves: for a while both answer, each to its own id, so that the ingress can follow. So it is with
adapters. Invariant: a request never meets another model than the one its token ids were made for,
nor another adapter than it asks for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import starmap
from typing import Any

from mulm.config import parse_config
from mulm.engine.engine import Engine
from mulm.errors import MulmError, NotRunningError
from mulm.messages import GenerateRequest, Grammar, TokenChunk
from mulm.model.adapter import Adapter
from mulm.model.batch import PAGE_TOKENS
from mulm.refs import new_id
from serve_app.alias_watch import (
    FOLLOW_PERIOD_S,
    AliasWatch,
    Meaning,
    Resolve,
    meaning,
    resolve_ids,
)
from serve_app.engine_client import ModelChangingError
from serve_app.engine_links import IngressAddress
from serve_app.engine_of_model import PLACES_PER_SLOT, make_engine, pressure, speed_up
from serve_app.engine_report import REPORT_PERIOD_S, EngineReport, Offer
from serve_app.engine_thread import EngineThread
from serve_app.held_adapters import HeldAdapters
from serve_app.ingress_links import IngressLinks, Put
from serve_app.opened_model import OpenedModel, open_adapters, open_from_store
from serve_app.reporter import Reporter
from serve_app.scaling import PRESSURE
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

_RETRY = "try again in a moment"

KEEP_PREVIOUS_S = 30.0
"""How long a replaced model takes new requests: until each ingress has noticed, by far."""

OpenModel = Callable[[AppArgs], OpenedModel]
OpenAdapters = Callable[[AppArgs, str], Mapping[str, Adapter | None]]
"""The adapters that a model of some id is to have, by their ids; None for what does not fit it."""


class EngineHost:
    """Generates for one model; `reconfigure` gives it the first and every later one."""

    def __init__(
        self,
        open_model: OpenModel = open_from_store,
        keep_previous_s: float = KEEP_PREVIOUS_S,
        resolve: Resolve = resolve_ids,
        follow_period_s: float = FOLLOW_PERIOD_S,
        open_adapters: OpenAdapters = open_adapters,
    ) -> None:
        self._open_model, self._open_adapters, self._resolve = open_model, open_adapters, resolve
        self._keep_previous_s = keep_previous_s
        self._alias = AliasWatch(resolve, follow_period_s)
        self._args: AppArgs | None = None
        self._model_id = ""
        self._meaning: Meaning = ()
        self._threads: dict[str, EngineThread] = {}
        self._adapters: dict[str, HeldAdapters] = {}
        self._prepares: dict[str, Callable[[Grammar], None]] = {}
        self._retirements: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._relays: set[asyncio.Task[None]] = set()
        self._name = new_id("host")
        self._is_stopped = False
        self._links = IngressLinks(self._submit)
        self._reporter = Reporter()
        self._reporting: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve's hook for `user_config`: load what it names, then switch over.

        Serve calls it with an unchanged config too, when it numbers replicas anew.
        """
        args = parse_config(AppArgs, config)
        if self._args is None or not _makes_same_engine(args, self._args):
            await self._take_over(args)
        elif args.adapters != self._args.adapters:
            await self._take_adapters(args)
        self._alias.follow(args, self._meaning, self._follow)
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report())

    async def _follow(self, args: AppArgs) -> Meaning:
        """Take over what an alias means by now."""
        model_id, *_ = await asyncio.to_thread(self._resolve, args)
        take = self._take_adapters if model_id == self._model_id else self._take_over
        await take(args)
        return self._meaning

    async def _take_over(self, args: AppArgs) -> None:
        """Load the model that `args` name by now, and keep the one before it for a while."""
        async with self._loading:
            self._require_running()
            opened = await asyncio.to_thread(self._open_model, args)
            adapters = await asyncio.to_thread(self._open_adapters, args, opened.id)
            model_id, is_new = opened.id, opened.id not in self._threads
            # Recording steps takes seconds, and streams of the model before it go on.
            engine = await asyncio.to_thread(make_engine, opened, args) if is_new else None
            previous, self._model_id, self._args = self._model_id, model_id, args
            if engine is not None:
                self._start(engine, opened, args)
            if model_id in self._retirements:
                self._retirements.pop(model_id).cancel()
            if previous not in ("", model_id):
                later = asyncio.get_running_loop().call_later
                self._retirements[previous] = later(self._keep_previous_s, self._retire, previous)
            await self._hold(adapters)
        _log.info("model loaded model=%s slots=%d", model_id, args.n_slots)

    async def _take_adapters(self, args: AppArgs) -> None:
        """Give the model that is served the adapters that `args` name by now."""
        async with self._loading:
            self._require_running()
            adapters = await asyncio.to_thread(self._open_adapters, args, self._model_id)
            self._args = args
            await self._hold(adapters)

    def _require_running(self) -> None:
        if self._is_stopped:
            raise NotRunningError("the engine host ends", hint=_RETRY)

    async def _hold(self, adapters: Mapping[str, Adapter | None]) -> None:
        self._meaning = meaning([self._model_id, *adapters])
        wanted = {name: adapter for name, adapter in adapters.items() if adapter is not None}
        await self._adapters[self._model_id].replace(wanted)

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """The tokens of a request; closing the iterator frees its slot.

        Raises:
            ModelChangingError: this replica holds another model or adapter, as during a change.
            MulmError: see `EngineThread.generate`.
        """
        thread = self._thread(model_id, request)
        if (check := self._check(model_id, request)) is not None:
            await asyncio.to_thread(check)
        async with aclosing(thread.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _thread(self, model_id: str, request: GenerateRequest) -> EngineThread:
        """What generates it; a thread that retires meanwhile refuses by itself."""
        if not self._threads:
            raise _not_loaded()
        if model_id not in self._threads:
            raise ModelChangingError("the model is being changed", hint=_RETRY)
        if request.adapter is not None and request.adapter not in self._adapters[model_id]:
            raise ModelChangingError("the adapter is being changed", hint=_RETRY)
        return self._threads[model_id]

    def _check(self, model_id: str, request: GenerateRequest) -> Callable[[], None] | None:
        """What takes time and belongs before the engine: the making of a grammar."""
        grammar, prepare = request.sampling.grammar, self._prepares.get(model_id)
        return None if grammar is None or prepare is None else partial(prepare, grammar)

    def _submit(self, model_id: str, request: GenerateRequest, put: Put) -> Callable[[], object]:
        """As `generate`, for an ingress at the other end of a connection."""
        thread = self._thread(model_id, request)
        if self._check(model_id, request) is None:
            return thread.submit(request, put)
        relay = asyncio.create_task(self._relay(model_id, request, put))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)
        return relay.cancel

    async def _relay(self, model_id: str, request: GenerateRequest, put: Put) -> None:
        try:
            async with aclosing(self.generate(model_id, request)) as chunks:
                async for chunk in chunks:
                    put(chunk)
        except MulmError as error:
            put(error)
        except Exception:  # noqa: BLE001 - the border: the ingress is told that there was one
            _log.exception("request failed request=%s", request.request_id)
            put(MulmError("the engine failed", hint="the replica's log says why"))

    async def hello(self, address: IngressAddress) -> None:
        """Be asked from there, and report there, from now on.

        Raises:
            NotRunningError: there is no way, or no model is loaded yet.
        """
        if self._args is None:
            raise _not_loaded()
        n_slots = self._args.n_slots
        offer = Offer(
            address.application,
            self._reporter.replica_id() or self._name,
            n_slots,
            PLACES_PER_SLOT * n_slots,
            self._args.max_queued,
            PAGE_TOKENS,
        )
        await self._links.connect(address, offer)

    async def load(self) -> dict[str, Any]:
        """What this replica does right now."""
        n_unfinished = sum(thread.n_unfinished for thread in self._threads.values())
        return {"model_id": self._model_id, "n_unfinished": n_unfinished}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook: what `serve_app.scaling` decides by."""
        thread = self._threads.get(self._model_id)
        if thread is None or self._args is None:
            return {PRESSURE: 0.0}
        return {PRESSURE: pressure(thread.stats(), self._args.n_slots, *self._links.waiting)}

    def check_health(self) -> None:
        """Serve's hook: raising has the replica replaced."""
        for thread in self._threads.values():
            thread.check_health()

    async def stop(self) -> None:
        """Take nothing new, let what runs come to its end, then end all that it began.

        What has not ended within the time that a request has gets a NotRunningError.
        """
        self._alias.stop()
        if self._args is not None:
            await self._links.leave(self._args.request_timeout_s)
        async with self._loading:  # what is being loaded is not begun any more
            self._is_stopped = True
        for handle in self._retirements.values():
            handle.cancel()
        tasks = [*self._tasks, *self._relays, *([self._reporting] if self._reporting else [])]
        for task in tasks:
            task.cancel()
        for held in self._adapters.values():
            held.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(t.stop) for t in self._threads.values()))
        await self._links.close()

    def __del__(self) -> None:
        for thread in self._threads.values():
            thread.stop()

    def _retire(self, model_id: str) -> None:
        del self._retirements[model_id]
        self._prepares.pop(model_id, None)
        self._adapters.pop(model_id).close()
        self._threads.pop(model_id).retire()

    def _start(self, engine: Engine, opened: OpenedModel, args: AppArgs) -> None:
        thread = EngineThread(engine)
        self._reporter.note(opened)
        self._threads[opened.id] = thread
        self._adapters[opened.id] = HeldAdapters(thread, self._keep_previous_s)
        if opened.prepare is not None:
            self._prepares[opened.id] = opened.prepare
        if opened.make_faster is not None or opened.make_draft_faster is not None:
            self._begin(speed_up(thread, opened, args))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report(self) -> None:
        """Tell the ingresses how it stands, from now on."""
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            self._links.report(starmap(self._report_of, self._threads.items()))

    def _report_of(self, model_id: str, thread: EngineThread) -> EngineReport:
        assert self._args is not None
        report = self._reporter.report(self._args.name, model_id, thread)
        if model_id != self._model_id:  # ends soon: what waits is the other's
            return report
        n_requests, n_tokens = self._links.waiting
        return replace(report, n_at_ingresses=n_requests, tokens_at_ingresses=n_tokens)


def _not_loaded() -> NotRunningError:
    return NotRunningError("no model is loaded yet", hint=_RETRY)


def _makes_same_engine(one: AppArgs, other: AppArgs) -> bool:
    return (one.model, one.fixed()) == (other.model, other.fixed())
