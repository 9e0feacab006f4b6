"""TensorBoard: curves and samples as files in the run's folder.

Opened by `registry` where the package is there. Invariant: a resumed run hides what the killed one
wrote after its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mulm.train.exporters.base import RunFacts


class TensorBoardExporter:
    """`Exporter` into `tensorboard/` of the run's folder."""

    def __init__(self, run: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

        folder = run.folder / "tensorboard"
        self._writer: Any = SummaryWriter(str(folder), purge_step=run.first_step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One curve for each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """As a block of code: TensorBoard reads Markdown."""
        block = "\n".join(f"    {line}" for line in text.splitlines())
        self._writer.add_text(name, block, step)

    def close(self) -> None:
        """Flush the file."""
        self._writer.close()
