"""SIGINT and SIGTERM during a job: the work is stopped once, the note of its end never.

Used by `jobs.entry`. Invariant: afterwards the handlers are those from before, or none where those
were of a process that only starts. Outside the main thread, where Python delivers no signals,
nothing is done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.starting import leave

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread at the first signal; ignore the rest.

    It is the one exception that also ends a blocking call into Ray. Ray kills what takes too
    long, so a second request needs no answer.
    """
    is_stopping = False

    def stop(*_: object) -> None:
        nonlocal is_stopping
        if not is_stopping:
            is_stopping = True
            raise KeyboardInterrupt

    with _handled_by(stop):
        yield


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let a signal take effect only after the block, which must be short."""
    waiting: list[int] = []
    with _handled_by(lambda number, _frame: waiting.append(number)):
        yield
    for number in waiting[:1]:
        signal.raise_signal(number)


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _NUMBERS}
    # Work that has ended is not stopped any more, however long its process takes to leave. Ray has
    # its own handler of one of the signals by then.
    is_job = leave in before.values()
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_IGN if is_job else earlier)
