"""Steps of a build that are remembered: the same inputs are not worked on twice.

Called by `mulm.data.build`. Invariant: a remembered result is used only if every blob of it
still has its checksum; else the step runs again, and the store mends what was damaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mulm.manifest import Manifest
from mulm.store import Store, step_key


class Emit(Protocol):
    """Is told of "progress" and "stage" events."""

    def __call__(self, kind: str, **data: Any) -> None:
        """Take one event."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Runs steps whose results are versions in a store."""

    store: Store
    emit: Emit
    code_version: str

    def run(
        self,
        name: str,
        inputs: dict[str, Any],
        make: Callable[[], Manifest],
        describe: Callable[[Manifest], str],
    ) -> Manifest:
        """The remembered result of these inputs, else a new one; a "stage" event says which."""
        start_s = time.monotonic()
        key = step_key(name, code=self.code_version, **inputs)
        known = self.store.recall(key)
        manifest = known or make()
        if known is None:
            self.store.save(manifest)
            self.store.remember(key, manifest.id)
        text = describe(manifest) + (", known already" if known else "")
        self.emit("stage", name=name, seconds=time.monotonic() - start_s, text=text)
        return manifest

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        """Tell how far a stage is."""
        self.emit("progress", stage=stage, done=done, total=total, unit=unit)


def silent(kind: str, **data: Any) -> None:
    """An `Emit` for nobody."""
