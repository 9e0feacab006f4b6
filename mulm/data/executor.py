"""Executors: who carries out the tasks of a build.

`InProcess` is here; the one on Ray Data stands in `jobs.ray_data`. Invariants: an executor decides
nothing; what a task makes depends on the task alone; only some tasks are under way at once, so
that memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Any, Protocol

Made = tuple[int, "Product | None"]
"""The place of a task and what it made; None: it has ended."""


@dataclass(frozen=True, slots=True)
class Product:
    """A file that a task made."""

    name: str
    content: bytes
    rows: int = 0
    """Documents or tokens inside, where that means something."""
    content_sha256: str | None = None
    """What identifies the content where its bytes may differ; see `mulm.manifest.BlobEntry`."""


Work = Callable[[Any], Iterator[Product]]
"""Carries out one task, anywhere; makes its files one after another."""


class Executor(Protocol):
    """Carries out many tasks."""

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        """What the tasks make: (place in `tasks`, product), and (place, None) at a task's end.

        Tasks end in any order; the products of one come in order. With `stays_here` they are
        carried out on this machine.

        Raises:
            MulmError: what `work` raised.
        """


class InProcess:
    """Threads of this process: the kernels run outside of Python's lock, so all cores are busy."""

    def __init__(self, n_threads: int = 1) -> None:
        self._n_threads = n_threads

    def run(
        self,
        work: Work,
        tasks: Sequence[Any],
        *,
        stays_here: bool = False,  # noqa: ARG002 where else
    ) -> Iterator[Made]:
        """See `Executor.run`."""
        if min(self._n_threads, len(tasks)) <= 1:
            return _one_by_one(work, tasks)
        return _Threads(work, tasks, self._n_threads).results()


def _one_by_one(work: Work, tasks: Sequence[Any]) -> Iterator[Made]:
    for place, task in enumerate(tasks):
        for product in work(task):
            yield place, product
        yield place, None


class _Threads:
    """Threads that take task after task, and a short line of what they made."""

    _POLL_S = 0.1

    def __init__(self, work: Work, tasks: Sequence[Any], n_threads: int) -> None:
        self._work = work
        self._waiting = iter(enumerate(tasks))
        self._taking = Lock()
        self._line: Queue[Made | BaseException] = Queue(maxsize=n_threads)
        self._n_tasks = len(tasks)
        self._is_over = Event()
        self._threads = [Thread(target=self._take_tasks, daemon=True) for _ in range(n_threads)]

    def results(self) -> Iterator[Made]:
        for thread in self._threads:
            thread.start()
        n_open = self._n_tasks
        try:
            while n_open:
                made = self._line.get()
                if isinstance(made, BaseException):
                    raise made
                n_open -= made[1] is None
                yield made
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()

    def _take_tasks(self) -> None:
        try:
            while (taken := self._take()) is not None:
                place, task = taken
                for product in self._work(task):
                    self._put((place, product))
                    if self._is_over.is_set():
                        return  # nobody waits for the rest of the task
                self._put((place, None))
        except BaseException as error:  # noqa: BLE001 the border of the thread: told to the reader
            self._put(error)

    def _take(self) -> tuple[int, Any] | None:
        with self._taking:
            return None if self._is_over.is_set() else next(self._waiting, None)

    def _put(self, made: Made | BaseException) -> None:
        while not self._is_over.is_set():
            try:
                self._line.put(made, timeout=self._POLL_S)
                return
            except Full:
                continue
