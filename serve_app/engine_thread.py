"""Steps one engine in a thread of its own and hands its tokens to asyncio consumers.

Owned by the engine host. Invariants: only this thread touches the engine; a consumer that goes
away frees its slot before the next step; nothing that an event loop awaits ever blocks it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

import torch

from mulm.engine.engine import Engine
from mulm.engine.speculation import Speculation
from mulm.engine.stats import EngineStats
from mulm.errors import MulmError, NotRunningError
from mulm.messages import GenerateRequest, TokenChunk
from mulm.model.batch import LanguageModel
from mulm.refs import new_id
from serve_app.engine_act import EngineAct
from serve_app.engine_stream import Put, Stream
from serve_app.settings import FLUSH_INTERVAL_S

_log = logging.getLogger(__name__)

STUCK_AFTER_S = 60.0
IDLE_CHECK_S = 1.0
"""Of quiet, before the engine's books are looked through: milliseconds, which nobody awaits."""


@dataclass(frozen=True, slots=True)
class _Add:
    stream: Stream


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class _Stop:
    when_idle: bool


_Command = _Add | _Cancel | EngineAct | _Stop


class EngineThread:
    """An engine that runs by itself.

    Args:
        engine: Handed over; the caller does not touch it any more.
        flush_interval_s: Seconds between two chunks of a running stream.
        clock: Seconds.
        idle_check_s: Seconds without anything to do after which it is looked whether pages and
            slots add up. An engine where they do not has broken.
    """

    def __init__(
        self,
        engine: Engine,
        flush_interval_s: float = FLUSH_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        idle_check_s: float = IDLE_CHECK_S,
    ) -> None:
        self.id = new_id("eng")
        self._engine = engine
        self._flush_interval_s = flush_interval_s
        self._clock = clock
        self._idle_check_s = idle_check_s
        self._inbox: SimpleQueue[_Command] = SimpleQueue()
        self._streams: dict[str, Stream] = {}
        self._flushed_s = self._progressed_s = clock()
        self._stop: _Stop | None = None
        self._door = threading.Lock()  # held for moments: nobody enters a closed inbox
        self._is_closed = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_unfinished(self) -> int:
        """Requests that run or wait; a snapshot."""
        return len(self._streams)

    def stats(self) -> EngineStats:
        """What the engine does and has done; a snapshot."""
        return self._engine.stats()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        """The tokens of a request, as they come; closing the iterator frees its slot.

        Raises:
            MulmError: what `Engine.add` raises, or NotRunningError when the engine stopped.
        """
        queue: asyncio.Queue[TokenChunk | MulmError] = asyncio.Queue()
        cancel = self.submit(request, queue.put_nowait)
        n_open = request.n
        try:
            while n_open:
                item = await queue.get()
                if isinstance(item, MulmError):
                    n_open = 0
                    raise item
                n_open -= item.finish_reason is not None
                yield item
        finally:
            if n_open:
                cancel()

    def submit(self, request: GenerateRequest, put: Put) -> Callable[[], None]:
        """As `generate`, but chunks and the error that may end them are put; returns a cancel.

        Raises:
            NotRunningError: the engine has stopped.
        """
        self._enter(_Add(Stream(request, asyncio.get_running_loop(), put)))
        return lambda: self._inbox.put(_Cancel(request.request_id))

    def swap(self, model: LanguageModel, n_torch_threads: int | None = None) -> None:
        """Go on with this model, of the same shape, from the next step on; no request is lost.

        Args:
            model: The new one.
            n_torch_threads: How many threads torch has from then on. It is told in the engine's
                thread: one that has used torch before keeps the number that it began with.
        """

        def work(engine: Engine) -> None:
            engine.swap(model)
            if n_torch_threads is not None:
                torch.set_num_threads(n_torch_threads)
            _log.info("engine goes on with another form of its model")

        self._begin(work, "another form of the model")

    async def act(self, work: Callable[[Engine], None]) -> None:
        """Have something done to the engine between two of its steps, and wait for that.

        Raises:
            MulmError: what it raised, or NotRunningError when the engine stopped.
        """
        command = EngineAct(work)
        self._enter(command)
        await asyncio.wrap_future(command.done)

    def speculate(self, speculation: Speculation) -> None:
        """Let this one, of the same vocabulary, guess from the next step on."""
        self._begin(lambda engine: engine.speculate(speculation), "a draft")

    def check_health(self) -> None:
        """Raise NotRunningError unless the engine is idle or finished a step lately."""
        if self._failure is not None:
            raise NotRunningError(f"the engine broke: {self._failure}")
        silent_s = self._clock() - self._progressed_s
        if self._streams and silent_s > STUCK_AFTER_S:
            raise NotRunningError(f"the engine finished no step for {silent_s:.0f} s")
        if not self._thread.is_alive() and self._stop is None:
            raise NotRunningError("the engine's thread died")

    def retire(self) -> None:
        """Take no new requests, finish the running ones, then end."""
        self._close(_Stop(when_idle=True))

    def stop(self, timeout_s: float = 10.0) -> None:
        """End now; consumers get a NotRunningError."""
        self._close(_Stop(when_idle=False))
        self._thread.join(timeout_s)

    def _begin(self, work: Callable[[Engine], None], what: str) -> None:
        """Have something done that nobody waits for: what is wrong with it is told by the log."""
        command = EngineAct(work)
        command.done.add_done_callback(partial(_tell, what))
        try:
            self._enter(command)
        except NotRunningError as error:
            command.refuse(error)

    def _enter(self, command: _Add | EngineAct) -> None:
        with self._door:
            if self._is_closed:
                raise NotRunningError("the engine has stopped", hint="try again in a moment")
            self._inbox.put(command)

    def _close(self, command: _Stop | None = None) -> None:
        """Whoever entered before is in the inbox by now, ahead of the command."""
        with self._door:
            self._is_closed = True
            if command is not None:
                self._inbox.put(command)

    def _run(self) -> None:
        try:
            while not self._is_done():
                self._receive()
                self._deliver(self._engine.step())
                self._progressed_s = self._clock()
        except Exception as error:  # noqa: BLE001 - the border of the thread: health tells it on
            _log.exception("engine broke requests=%d", len(self._streams))
            self._failure = error
        finally:
            self._close()
            self._fail_all(NotRunningError("the engine stopped", hint="try again in a moment"))

    def _is_done(self) -> bool:
        if self._stop is None:
            return False
        return not (self._stop.when_idle and self._streams)

    def _receive(self) -> None:
        """Take all commands; with nothing to generate, wait for one."""
        if not self._streams and self._stop is None:
            self._obey(self._wait())
        while True:
            try:
                command = self._inbox.get_nowait()
            except Empty:
                return
            self._obey(command)

    def _wait(self) -> _Command:
        """The next command; where none comes for a while, the books are looked through once."""
        try:
            return self._inbox.get(timeout=self._idle_check_s)
        except Empty:
            assert not self._engine.n_unfinished, "the engine generates for nobody"
            self._engine.check_integrity()
            return self._inbox.get()

    def _obey(self, command: _Command) -> None:
        match command:
            case _Add(stream):
                self._add(stream)
            case _Cancel(request_id):
                if self._streams.pop(request_id, None):
                    self._engine.cancel(request_id)
            case EngineAct():
                command.carry_out(self._engine)
            case _Stop():
                self._stop = command

    def _add(self, stream: Stream) -> None:
        if not self._streams:
            self._progressed_s = self._clock()
        try:
            self._engine.add(stream.request)
        except MulmError as error:
            self._send([(stream, error)])
        else:
            self._streams[stream.request.request_id] = stream

    def _deliver(self, chunks: Iterable[TokenChunk]) -> None:
        """Send first tokens and ends at once, the rest when the interval has passed."""
        now_s = self._clock()
        is_due = now_s - self._flushed_s >= self._flush_interval_s
        urgent: dict[str, Stream] = {}
        for chunk in chunks:
            stream = self._streams[chunk.request_id]
            if stream.take(chunk):
                urgent[chunk.request_id] = stream
            if stream.n_ended == stream.request.n:
                del self._streams[chunk.request_id]
        if is_due:
            self._flushed_s = now_s
            urgent |= {name: s for name, s in self._streams.items() if s.pending}
        self._send([(stream, chunk) for stream in urgent.values() for chunk in stream.flush()])

    def _send(self, items: Sequence[tuple[Stream, TokenChunk | MulmError]]) -> None:
        """Wake each event loop once with all that is for it."""
        for loop in {stream.loop for stream, _ in items}:
            mine = [(s.put, item) for s, item in items if s.loop is loop]
            try:
                loop.call_soon_threadsafe(_put_all, mine)
            except RuntimeError:  # the loop is closed: nobody listens any more
                for stream in [s for s, _ in items if s.loop is loop]:
                    self._obey(_Cancel(stream.request.request_id))

    def _fail_all(self, error: MulmError) -> None:
        while not self._inbox.empty():
            command = self._inbox.get()
            if isinstance(command, _Add):
                self._streams[command.stream.request.request_id] = command.stream
            elif isinstance(command, EngineAct):
                command.refuse(error)
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            self._engine.cancel(stream.request.request_id)
        self._send([(stream, error) for stream in streams])


def _put_all(items: list[tuple[Put, TokenChunk | MulmError]]) -> None:
    for put, item in items:
        put(item)


def _tell(what: str, done: Future[None]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        _log.error("the engine does without it what=%s reason=%s", what, error)
