"""Steps of fixed shape that are recorded once and then repeated: CUDA graphs, and their checks.

Made by the runner where it is given a recorder. Every shape is recorded, the largest first, so that
the others find room in its memory, and tried at once on rows that it was not recorded with: what it
gives must be what the same step gives eagerly. Invariant: where recording fails or a difference is
found, no graph is used at all, the reason is logged, and steps run eagerly.
Shape letters as in `mulm.engine.static_step`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mulm.engine.static_probe import Probe
from mulm.engine.static_shapes import Shape
from mulm.engine.static_step import StaticStep

_log = logging.getLogger(__name__)

_FP32_TOLERANCE = 1e-4
_HALF_TOLERANCE = 2e-2
"""Of the largest number of a step; other work would be off by as much as the numbers are."""


class Recorder(Protocol):
    """Records a device's work; see `mulm.engine.graph_cuda`."""

    def record(self, act: Callable[[], None]) -> Callable[[], None]:
        """Run `act`, and give what does its work again, on the same memory.

        Raises:
            RuntimeError: the work cannot be recorded.
        """

    def forget(self) -> None:
        """Free all that was recorded; nothing of it is repeated any more."""

    @property
    def n_bytes(self) -> int:
        """Memory that all that is recorded takes, beside what the work itself takes."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What became of recording."""

    n_graphs: int
    n_bytes: int
    seconds: float
    problem: str = ""
    """Why there are none."""


class GraphDiffersError(RuntimeError):
    """A repeated step gave something else than the step itself."""


def record_new(
    make: Callable[[], tuple[StaticStep, Probe]], recorder: Recorder
) -> tuple[StaticStep | None, GraphReport]:
    """Make a step and have all its shapes recorded; None where that fails."""
    try:
        step, probe = make()
    except RuntimeError as error:  # of memory, most likely
        return None, _failure(error, 0.0)
    report = record_all(step, probe, recorder)
    return (step if report.n_graphs else None), report


@torch.inference_mode()
def record_all(step: StaticStep, probe: Probe, recorder: Recorder) -> GraphReport:
    """Have all shapes of a step recorded, or none."""
    begun_s = time.monotonic()
    shapes = step.shapes.largest_first()
    try:
        probe.write()
        for shape in shapes:
            _record(step, shape, probe, recorder)
    except RuntimeError as error:
        step.forget()
        recorder.forget()
        return _failure(error, time.monotonic() - begun_s)
    report = GraphReport(len(shapes), recorder.n_bytes, time.monotonic() - begun_s)
    _log.info(
        "steps are recorded as graphs n=%d size_bytes=%d seconds=%.1f",
        report.n_graphs, report.n_bytes, report.seconds,
    )  # fmt: skip
    return report


def _failure(error: RuntimeError, seconds: float) -> GraphReport:
    problem = " ".join(f"{type(error).__name__}: {error}".split())
    _log.warning("steps are not recorded as graphs and run eagerly reason=%s", problem)
    return GraphReport(0, 0, seconds, problem)


def _record(step: StaticStep, shape: Shape, probe: Probe, recorder: Recorder) -> None:
    step.run_rows(shape, probe.rows(shape, 0))  # what the recorded work does then is not idle
    step.record(shape, recorder.record)
    rows = probe.rows(shape, 1)
    repeated_BD = step.run_rows(shape, rows)
    _require_same(repeated_BD, step.run_rows(shape, rows, eagerly=True), shape)


def _require_same(repeated_BD: Tensor, eager_BD: Tensor, shape: Shape) -> None:
    tolerance = _FP32_TOLERANCE if eager_BD.dtype == torch.float32 else _HALF_TOLERANCE
    eager_BD = eager_BD.float()
    largest, off = float(eager_BD.abs().max()), float((repeated_BD.float() - eager_BD).abs().max())
    if not off <= tolerance * largest < math.inf:  # also where something is no number
        raise GraphDiffersError(
            f"a repeated step of {shape.rows} rows and {shape.pages} pages is off by {off:.3g},"
            f" where its numbers go up to {largest:.3g}"
        )
