"""The application that `benchmarks.soak` lives with: one process, without Ray, behind an alias.

An engine host and an ingress's half both follow the alias, as they do in a cluster, and the
product's own HTTP server listens. Every engine is looked at from its begin to its end: its books
while it runs, and all of its pages when it has gone or is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serving_app import KEY, LocalClient
from mulm.accounts import Key
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.errors import NotRunningError
from mulm.model.config import MicroLMConfig
from mulm.native.model import NativeModel
from mulm.testing import tiny_model
from serve_app.auth import KeyRing
from serve_app.engine_client import EngineClient
from serve_app.engine_host import EngineHost
from serve_app.engine_thread import EngineThread
from serve_app.followed import Followed
from serve_app.http_server import HttpServer
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.opened_model import OpenedModel
from serve_app.served import Served
from serve_app.service import Service
from serve_app.settings import AppArgs

NAME = "lived-with"
KEEP_PREVIOUS_S = 3.0
"""Much less than between two moves of the alias: engines go and others of the same model come."""
_FOLLOW_PERIOD_S = 0.2
_ARGS = AppArgs(
    model=f"{NAME}@live", n_slots=24, n_guesses=3,
    kv_cache_bytes=1 << 20,  # so few pages that sequences are preempted
)  # fmt: skip


class Weights:
    """Random weights by name, made anew whenever they are opened, as from a store.

    Args:
        folder: Where kernels are compiled.
        config: The shape of all.
        seeds: Those of each name.
    """

    def __init__(self, folder: Path, config: MicroLMConfig, seeds: dict[str, int]) -> None:
        self._folder, self.config, self.seeds = folder, config, seeds

    def open(self, name: str) -> NativeModel:
        """The model."""
        return NativeModel(tiny_model(config=self.config, seed=self.seeds[name]), self._folder, 1)


class Application:
    """Answers on a free port of this machine, in a thread of its own.

    Args:
        weights: What the alias may point to.
        tokenizer: That of all of them.
    """

    def __init__(self, weights: Weights, tokenizer: Tokenizer) -> None:
        self._weights, self._tokenizer = weights, tokenizer
        self._turns = itertools.cycle(weights.seeds)
        self._target = next(self._turns)
        self.port = 0
        self.wrong: Counter[str] = Counter()
        self.n_moves = self.n_swaps = self.n_preemptions = 0
        self._threads: set[EngineThread] = set()
        self._loop = asyncio.new_event_loop()
        self._runner = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner.start()
        self.call(self._start())

    def call(self, work: Coroutine[Any, Any, Any], timeout_s: float = 120.0) -> Any:
        """Run a coroutine where the application runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def move_on(self) -> None:
        """Have the alias point to the next model, and wait until that is served."""
        self._target = next(self._turns)
        self.n_moves += 1
        self.call(self._until_served())

    def swap(self) -> None:
        """Give each engine its weights anew, in place, as it gets a faster form of them."""
        self.call(self._swap())

    def look(self) -> None:
        """Note what does not add up, in engines that run and in those that have gone."""
        self.call(self._look())

    def rest(self) -> None:
        """Wait until nobody is answered; then all pages must be free."""
        self.call(self._rest())

    def stop(self) -> None:
        """End it; all engines must end well."""
        self.call(self._stop())
        for thread in self._threads:
            self._judge_ended(thread)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join(10.0)
        self._loop.close()

    async def _start(self) -> None:
        self._host = EngineHost(
            lambda _args: OpenedModel(
                name := self._target, self._weights.open(name), tokenizer=self._tokenizer
            ),
            KEEP_PREVIOUS_S, self._resolve, _FOLLOW_PERIOD_S,
        )  # fmt: skip
        await self._host.reconfigure(_ARGS.model_dump(mode="json"))
        followed = Followed(LocalClient(self._host), self._open_served, self._resolve, 0.05)
        await followed.reconfigure(_ARGS)
        self._deployment = _Deployment(followed)
        await self._until_served()
        owner = Key("key_1", "lived with", 0.0, "all")
        app = make_app(
            Service({NAME: self._deployment}), KeyRing(lambda: {digest_of(KEY, b""): owner}, b"")
        )
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._server = HttpServer(app, "127.0.0.1", self.port, 5.0)
        await self._server.start()

    def _resolve(self, _args: AppArgs) -> tuple[str, ...]:
        return (self._target,)

    def _open_served(self, args: AppArgs, engine: EngineClient) -> Served:
        window = self._weights.config.max_seq_len
        return Served(args.name, f"{NAME}@1", self._target, 0.0, self._tokenizer, window, engine)

    async def _until_served(self) -> None:
        async with asyncio.timeout(60.0):
            while (
                self._deployment.served is None or self._deployment.served.model_id != self._target
            ):
                await asyncio.sleep(0.05)
        self._threads |= set(self._host._threads.values())

    async def _swap(self) -> None:
        for name, thread in list(self._host._threads.items()):
            model = await asyncio.to_thread(self._weights.open, name)
            await self._act(thread, partial(Engine.swap, model=model))
            self.n_swaps += 1

    async def _look(self) -> None:
        try:
            self._host.check_health()
        except NotRunningError as error:
            self.wrong[error.message] += 1
        for thread in list(self._threads):
            if thread._thread.is_alive():
                await self._act(thread, lambda engine: engine.check_integrity())
            else:
                self._threads.remove(thread)
                self._judge_ended(thread)

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(60.0):
                while any(thread.n_unfinished for thread in self._threads):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self.wrong["requests that nobody waits for are still being generated"] += 1
        await self._look()
        for thread in self._threads:
            stats = thread.stats()
            if stats.n_free_pages != stats.n_pages:
                self.wrong[f"{stats.n_pages - stats.n_free_pages} pages of an idle engine"] += 1

    async def _act(self, thread: EngineThread, work: Callable[[Engine], None]) -> None:
        """Have something done to an engine, unless it takes nothing any more."""

        def do(engine: Engine) -> None:
            try:
                work(engine)
            except Exception as error:
                self.wrong[f"in an engine: {error}"] += 1
                raise

        with contextlib.suppress(NotRunningError):
            await thread.act(do)

    async def _stop(self) -> None:
        self._deployment.followed.stop()
        await self._host.stop()
        await self._server.stop()

    def _judge_ended(self, thread: EngineThread) -> None:
        """What it left; only after its thread has ended."""
        if thread._failure is not None:
            self.wrong[f"an engine broke: {thread._failure}"] += 1
        stats = thread.stats()
        self.n_preemptions += stats.n_preemptions
        if stats.n_free_pages != stats.n_pages or stats.n_running or stats.n_waiting:
            self.wrong[f"an engine that ended holds something: {stats}"] += 1
        try:
            thread._engine.check_integrity()
        except AssertionError as error:
            self.wrong[f"an engine that ended: {error}"] += 1


class _Deployment:
    """What is followed, as routes ask it."""

    def __init__(self, followed: Followed) -> None:
        self.followed = followed

    @property
    def served(self) -> Served | None:
        """As `Serving.served`."""
        return self.followed.served

    def draw(self) -> Served:
        """As `Serving.draw`."""
        assert self.followed.served is not None
        return self.followed.served

    async def is_ready(self) -> bool:
        """As `Serving.is_ready`."""
        return await self.followed.is_ready()
