"""What a run tells about itself: events for the ledger, and TensorBoard files.

Used by the training loop on worker 0. Invariant: reporting never changes training; without
the tensorboard package a run goes on and says so once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mulm.train.context import TrainContext


class Metrics:
    """Reports of one worker; those of all but worker 0 are dropped."""

    def __init__(self, context: TrainContext, first_step: int, steps: int) -> None:
        self._context = context
        self._steps = steps
        self._is_reporter = context.rank == 0
        self._writer = open_tensorboard(context, first_step) if self._is_reporter else None
        self._since_s, self._since_step = context.now_s(), first_step
        self._steps_s, self._n_steps, self._n_tokens = 0.0, 0, 0

    @property
    def tokens_per_s(self) -> float | None:
        """The mean since this process began, without validation; None where it took no step."""
        return round(self._n_tokens / self._steps_s, 1) if self._n_steps else None

    def step(self, step: int, batch_tokens: int, values: dict[str, float]) -> None:
        """Report a finished step: a "metric" and a "progress" event; steps count from 1."""
        now_s = self._context.now_s()
        seconds = max(now_s - self._since_s, 1e-9)
        n_steps = step - self._since_step
        self._since_s, self._since_step = now_s, step
        self._steps_s += seconds
        self._n_steps += n_steps
        self._n_tokens += n_steps * batch_tokens
        eta_s = (self._steps - step) * seconds / max(n_steps, 1)
        speed = {
            "tokens_per_s": round(n_steps * batch_tokens / seconds, 1),
            "eta_s": round(eta_s, 1),
        }
        self.metric(step, values | speed)
        self._emit(
            "progress",
            stage="train",
            done=step,
            total=self._steps,
            unit="steps",
            rate_per_s=round(n_steps / seconds, 3),
            eta_s=speed["eta_s"],
            text=f"loss {values['loss']:.3f}",
        )

    def metric(self, step: int, values: dict[str, float]) -> None:
        """Report numbers that belong to a step."""
        self._emit("metric", step=step, **values)
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def event(self, kind: str, **data: Any) -> None:
        """Report something that happened."""
        self._emit(kind, **data)

    def pause_clock(self, seconds: float) -> None:
        """Leave out time that was not spent on training steps."""
        self._since_s += seconds

    def close(self) -> None:
        """Flush the TensorBoard file."""
        if self._writer:
            self._writer.close()

    def _emit(self, kind: str, **data: Any) -> None:
        if self._is_reporter:
            self._context.emit(kind, data)


def open_tensorboard(context: TrainContext, first_step: int) -> Any:
    """A writer into the run's folder, or None where the package is absent."""
    folder: Path = context.folder / "tensorboard"
    try:
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import
    except ImportError:
        context.emit("log", {"text": "no TensorBoard files: the tensorboard package is absent"})
        return None
    # A resumed run hides what the killed one wrote after its last checkpoint.
    return SummaryWriter(str(folder), purge_step=first_step + 1)
