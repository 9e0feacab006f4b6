"""What a run tells about itself: events for the ledger, and numbers for exporters.

Used by the training loop on worker 0. Invariant: reporting never changes training; an exporter that
fails, or TensorBoard where its package is absent, costs a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mulm.train.context import TrainContext
from mulm.train.exporters.background import Background
from mulm.train.exporters.base import RunFacts
from mulm.train.exporters.registry import ALWAYS, has_package, open_exporters
from mulm.train.settled import SettledConfig
from mulm.train.usage import Usage

OF_THE_MACHINE = ("tokens_per_s", "eta_s", "mfu", "memory_bytes")
"""Numbers that depend on where and how fast a run went: the same run repeated has others."""
OF_EACH_ISLAND = frozenset({"log", "resumed"})
"""Events that are told of every island; of the others there would be too many."""


class Metrics:
    """Reports of one worker; those of all but worker 0 are dropped.

    Args:
        config: How many steps there are of how many tokens, and where to export to.
        first_step: Steps that were done before this process began.
        usage: What the run's speed is compared with.
        speaks: Whether this worker speaks for the run now: islands are many, one leads.
    """

    def __init__(
        self,
        context: TrainContext,
        config: SettledConfig,
        first_step: int,
        usage: Usage,
        speaks: Callable[[], bool] = lambda: True,
    ) -> None:
        self._speaks = speaks
        self._texts: Sequence[str] = ()
        self._context, self._usage = context, usage
        self._steps, self._batch_tokens = config.steps, config.batch_tokens
        self._is_reporter = context.rank == 0
        self._exporters: Sequence[Background] = ()
        if self._is_reporter:
            self._exporters = self._open(config, first_step)
        self._since_s, self._since_step = context.now_s(), first_step
        self._steps_s, self._n_steps, self._has_started = 0.0, 0, False

    @property
    def tokens_per_s(self) -> float | None:
        """The mean since start-up, without validation; None where no step came after that."""
        if not self._n_steps:
            return None
        return round(self._n_steps * self._batch_tokens / self._steps_s, 1)

    def begin(self, texts: Sequence[str]) -> None:
        """Say how the run is done: now, or when this worker turns out to speak for it."""
        self._texts = texts
        self._tell_beginning()

    def _tell_beginning(self) -> None:
        if self._speaks():
            for text in self._texts:
                self._emit("log", text=text)
            self._texts = ()

    def took_step(self, step: int) -> None:
        """A step is done. The first of a process is start-up: memory is taken, code compiled."""
        self._tell_beginning()
        if not self._has_started:
            self._has_started = True
            self._since_s, self._since_step = self._context.now_s(), step

    def step(self, step: int, values: dict[str, float]) -> None:
        """Report a finished step: a "metric" and a "progress" event; steps count from 1."""
        speed = self._speed(step)
        self.metric(step, values | speed | self._usage.numbers(speed.get("tokens_per_s")))
        rate = speed.get("tokens_per_s", 0.0) / self._batch_tokens
        self._emit(
            "progress",
            stage="train",
            done=step,
            total=self._steps,
            unit="steps",
            rate_per_s=round(rate, 3),
            eta_s=speed.get("eta_s"),
            text=f"loss {values['loss']:.3f}",
        )

    def metric(self, step: int, values: dict[str, float]) -> None:
        """Report numbers that belong to a step."""
        self._emit("metric", step=step, **values)
        if not self._speaks():
            return
        for exporter in self._exporters:
            exporter.numbers(step, values)
        self._tell_of_trouble()

    def sample(self, step: int, number: int, prompt: str, text: str) -> None:
        """Report what the model said to the prompt of that number."""
        self._emit("sample", step=step, prompt=prompt, text=text)
        for exporter in self._exporters:
            exporter.text(step, f"sample_{number}", f"{prompt} -> {text}")

    def event(self, kind: str, **data: Any) -> None:
        """Report something that happened."""
        self._emit(kind, **data)

    def pause_clock(self, seconds: float) -> None:
        """Leave out time that was not spent on training steps."""
        self._since_s += seconds

    def close(self) -> None:
        """Have exporters write what waits, for seconds at most."""
        for exporter in self._exporters:
            exporter.close()
        self._tell_of_trouble()

    def _open(self, config: SettledConfig, first_step: int) -> Sequence[Background]:
        if not has_package(ALWAYS):
            self._emit("log", text="no TensorBoard files: the tensorboard package is absent")
        folder, values = self._context.folder, config.model_dump(mode="json")
        facts = RunFacts(folder.name, config.name, folder, first_step, values)
        return open_exporters(config.export_to, facts)

    def _speed(self, step: int) -> dict[str, float]:
        """Since the last report; nothing where no step was taken since start-up."""
        now_s, n_steps = self._context.now_s(), step - self._since_step
        seconds = max(now_s - self._since_s, 1e-9)
        self._since_s, self._since_step = now_s, step
        if not n_steps:
            return {}
        self._steps_s += seconds
        self._n_steps += n_steps
        return {
            "tokens_per_s": round(n_steps * self._batch_tokens / seconds, 1),
            "eta_s": round((self._steps - step) * seconds / n_steps, 1),
        }

    def _tell_of_trouble(self) -> None:
        for exporter in self._exporters:
            if trouble := exporter.take_trouble():
                self._emit("log", text=trouble)

    def _emit(self, kind: str, **data: Any) -> None:
        if self._is_reporter and (kind in OF_EACH_ISLAND or self._speaks()):
            self._context.emit(kind, data)
