"""An exporter in a thread of its own, so that the training loop never waits for it.

Made by `registry` for the metrics of worker 0. Invariants: what was told arrives in order; a
bounded queue stands between, and what it has no room for is left out, with a word; after its first
error an exporter is told nothing more, and `take_trouble` says why, once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import Empty, Full, Queue

from mulm.train.exporters.base import Exporter

QUEUE_LENGTH = 10_000
CLOSE_TIMEOUT_S = 20.0
"""Less than the time that other workers wait for this one."""

Call = Callable[[Exporter], None]


class Background:
    """Passes calls on to the exporter that `make` returns.

    Args:
        name: What the user calls it.
        make: Called in the thread; may take its time, and may fail.
        queue_length: Calls that may wait.
        close_timeout_s: How long `close` waits for those.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Exporter],
        queue_length: int = QUEUE_LENGTH,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        self._name, self._make, self._close_timeout_s = name, make, close_timeout_s
        self._calls: Queue[Call | None] = Queue(queue_length)
        self._trouble = ""
        self._has_told = False
        self._has_ended = threading.Event()
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name=f"export-{name}", daemon=True)
        self._thread.start()

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """See `Exporter.numbers`; returns at once."""
        copied = dict(values)
        self._add(lambda exporter: exporter.numbers(step, copied))

    def text(self, step: int, name: str, text: str) -> None:
        """See `Exporter.text`; returns at once."""
        self._add(lambda exporter: exporter.text(step, name, text))

    def close(self) -> None:
        """Have the rest told, with a deadline."""
        self._is_closing = True
        self._add(None)
        if not self._has_ended.wait(self._close_timeout_s):
            self._trouble = self._trouble or (
                f"did not take all within {self._close_timeout_s:.0f} s of the end"
            )

    def take_trouble(self) -> str | None:
        """What went wrong, the first time that one asks after it did."""
        if not self._trouble or self._has_told:
            return None
        self._has_told = True
        return f"export to {self._name}: {self._trouble}; training is not affected"

    def _add(self, call: Call | None) -> None:
        if self._has_ended.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except Full:
            self._trouble = self._trouble or "it is too slow, so numbers are left out"

    def _work(self) -> None:
        try:
            self._pass_on(self._make())
        except Exception as error:  # noqa: BLE001 - foreign code at a border; it is told
            self._trouble = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        finally:
            self._has_ended.set()
        self._drain()

    def _pass_on(self, exporter: Exporter) -> None:
        while call := self._next():
            call(exporter)
        exporter.close()

    def _next(self) -> Call | None:
        """The next call; None at the end, also where the queue had no room for it."""
        while True:
            try:
                return self._calls.get(timeout=0.5)
            except Empty:
                if self._is_closing:
                    return None

    def _drain(self) -> None:
        """Nobody reads any more: let no call wait in memory."""
        while True:
            try:
                self._calls.get_nowait()
            except Empty:
                return
