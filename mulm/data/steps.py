"""Steps of a build that are remembered: the same inputs are not worked on twice.

Called by `mulm.data.build`. A step makes a version out of others; a stage carries out many tasks,
each remembered by itself as soon as it has ended, so that a build that was killed goes on there.
Invariant: a remembered result is used only if every blob of it still has its checksum; else it is
made again, and the store mends what was damaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mulm.data.executor import Executor, Work
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store, step_key

Entries = tuple[BlobEntry, ...]


class Emit(Protocol):
    """Is told of "progress" and "stage" events."""

    def __call__(self, kind: str, **data: Any) -> None:
        """Take one event."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Tasks of one kind, and how they are named and measured."""

    name: str
    work: Work
    tasks: Sequence[Any]
    inputs: Sequence[dict[str, Any]]
    """For each task what its result depends on."""
    sizes_bytes: Sequence[int]
    """For each task its share of the progress."""
    space_per_byte: int = 0
    """What it and the stages after it write at most for each byte of that."""
    reads_files: bool = False
    """Whether tasks read files that only the driver's machine is sure to have."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs steps whose results are in a store."""

    store: Store
    emit: Emit
    code_version: str
    clock: Callable[[], float] = time.monotonic

    def run(
        self,
        name: str,
        inputs: dict[str, Any],
        make: Callable[[], Manifest],
        describe: Callable[[Manifest], str],
    ) -> Manifest:
        """The remembered result of these inputs, else a new one; a "stage" event says which."""
        start_s = self.clock()
        key = step_key(name, code=self.code_version, **inputs)
        known = self.store.recall(key)
        manifest = known or make()
        if known is None:
            self.store.save(manifest)
            self.store.remember(key, manifest.id)
        text = describe(manifest) + (", known already" if known else "")
        self.emit("stage", name=name, seconds=self.clock() - start_s, text=text)
        return manifest

    def each(self, stage: Stage, executor: Executor) -> list[Entries]:
        """What the tasks of a stage make, each remembered or made now; in the order of tasks."""
        keys = [step_key(stage.name, code=self.code_version, **given) for given in stage.inputs]
        made = [self.store.recall_blobs(key) for key in keys]
        waiting = [place for place, blobs in enumerate(made) if blobs is None]
        total_bytes = sum(stage.sizes_bytes)
        waiting_bytes = sum(stage.sizes_bytes[place] for place in waiting)
        self.store.require_space(stage.space_per_byte * waiting_bytes)
        progress = StageProgress(self, stage.name, total_bytes)
        progress.skip(total_bytes - waiting_bytes)
        unfinished: dict[int, list[BlobEntry]] = {place: [] for place in waiting}
        for number, product in executor.run(
            stage.work, [stage.tasks[p] for p in waiting], stays_here=stage.reads_files
        ):
            place = waiting[number]
            if product is not None:
                unfinished[place].append(
                    self.store.put(
                        product.name, product.content, product.rows, product.content_sha256
                    )
                )
                continue
            blobs = tuple(unfinished.pop(place))
            self.store.remember_blobs(keys[place], blobs)
            made[place] = blobs
            progress.advance(stage.sizes_bytes[place])
        assert not unfinished, "an executor lost a task"
        return [blobs for blobs in made if blobs is not None]


class StageProgress:
    """How far a stage is, how fast it goes and how long it will take; told now and then."""

    _EVERY_S = 0.5

    def __init__(self, steps: Steps, stage: str, total: int, unit: str = "MB") -> None:
        self._steps = steps
        self._stage = stage
        self._total = total
        self._scale = 1e6 if unit == "MB" else 1
        self._unit = unit
        self._done = 0
        self._skipped = 0
        self._start_s = steps.clock()
        self._told_s = -self._EVERY_S

    def skip(self, amount: int) -> None:
        """What was done before counts as done, not as speed."""
        self._skipped = self._done = amount
        self._tell()

    def advance(self, amount: int) -> None:
        """So much more is done."""
        self._done += amount
        if self._done >= self._total or self._steps.clock() - self._told_s >= self._EVERY_S:
            self._tell()

    def _tell(self) -> None:
        self._told_s = self._steps.clock()
        passed_s = self._told_s - self._start_s
        rate_per_s = (self._done - self._skipped) / passed_s if passed_s > 0 else 0.0
        left = self._total - self._done
        self._steps.emit(
            "progress",
            stage=self._stage,
            done=round(self._done / self._scale, 1),
            total=round(self._total / self._scale, 1),
            unit=self._unit,
            rate_per_s=round(rate_per_s / self._scale, 2),
            eta_s=round(left / rate_per_s, 1) if rate_per_s else None,
        )


def silent(kind: str, **data: Any) -> None:
    """An `Emit` for nobody."""
