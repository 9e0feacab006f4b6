"""Which of a run's checkpoints is the best: judged by a validation after its very step.

Asked by the writer of checkpoints, in its thread. Invariant: a run that goes on knows the best of
those that are there, and of equals the first stays the best.
"""

from __future__ import annotations

from pathlib import Path

from mulm.model.checkpoint import checkpoints, read_state, step_of
from mulm.train.state import IS_VALIDATED


class BestCheckpoint:
    """The step of the best checkpoint so far; None before one was judged."""

    def __init__(self, *, higher_is_better: bool) -> None:
        self.step: int | None = None
        self._value = 0.0
        self._sign = 1 if higher_is_better else -1

    @classmethod
    def among(cls, folder: Path, judged_by: str, *, higher_is_better: bool) -> BestCheckpoint:
        """That of the checkpoints under `folder`, by their number of that name."""
        best = cls(higher_is_better=higher_is_better)
        for path in checkpoints(folder):
            state = read_state(path) or {}
            value = state.get(judged_by) if state.get(IS_VALIDATED) else None
            best.takes(step_of(path), value if isinstance(value, int | float) else None)
        return best

    def takes(self, step: int, judged: float | None) -> bool:
        """Whether a checkpoint is better than all before; it then is the best."""
        if judged is None:
            return False
        if self.step is not None and self._sign * (judged - self._value) <= 0:
            return False
        self.step, self._value = step, judged
        return True
