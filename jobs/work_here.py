"""A stage's work in this very process, for when the application is not up.

Called by `jobs.journey`. Invariant: the same pure work as in a job, in the same kind of run; the
first Ctrl-C or SIGTERM lets training write a checkpoint, a second one ends at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from jobs.entry import JobContext, execute
from jobs.progress import Progress
from mulm.config import Frozen
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import open_store
from mulm.train.config import TrainConfig, require_one_worker

Result = dict[str, Any]


def work_here(kind: str, config: Frozen, run_id: str, home: Home, progress: Progress) -> Result:
    """Do the work of a run and show its events.

    Raises:
        StoppedError: Ctrl-C; the same command goes on where it was.
        MulmError: what the work raised.
    """
    if isinstance(config, TrainConfig):
        require_one_worker(config)
    with ShownLedger(home.ledger, progress) as facts:
        context = JobContext(run_id, home, open_store(home), facts)
        try:
            return execute(kind, config, _work(kind), context)
        finally:
            progress.clear()


class ShownLedger(Ledger):
    """A ledger that shows the events that it is told."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self._progress = progress

    def append_events(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """See `Facts.append_events`."""
        told = list(events)
        for kind, data in told:
            self._progress.event(kind, data)
        return super().append_events(run_id, told)


@contextmanager
def _stop_on_interrupt() -> Iterator[Event]:
    """An event that the first signal sets; from the second on the handlers from before act."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first(*_: object) -> None:
        stop.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, first)
    try:
        yield stop
    finally:
        restore()


def _work(kind: str) -> Callable[[JobContext, Any], Result]:
    if kind == "train":
        return _train
    if kind == "prepare":
        from jobs.prepare import in_this_process, prepare

        return partial(prepare, executor=in_this_process())
    if kind == "train_tokenizer":
        from jobs.train_tokenizer import learn

        return learn
    if kind == "compress":
        from jobs.compress import compress

        return compress
    if kind == "batch":
        from jobs.batch import answer_served

        return answer_served
    if kind == "model_export":
        from jobs.model_export import give_out

        return give_out
    if kind == "model_import":
        from jobs.model_import import take_in

        return take_in
    if kind == "fine_tune":
        from jobs.fine_tune import fine_tune
        from jobs.prepare import in_this_process

        return partial(fine_tune, train=_train, executor=in_this_process())
    from jobs.evaluate import evaluate

    return evaluate


def _train(context: JobContext, config: TrainConfig) -> Result:
    from mulm.train.local import train_locally

    with _stop_on_interrupt() as stop:
        return train_locally(
            config,
            context.run_id,
            context.home,
            context.store,
            context.facts,
            should_stop=stop.is_set,
        )
