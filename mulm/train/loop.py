"""The training loop: the same alone, in a test, or in one of many Ray Train workers.

Called with a configuration and a context. What is trained, and on what, is the objective's
business (`mulm.train.objectives.base`). Invariants: the global batch of a step does not depend on
the number of workers; killed at any moment and started again with as many workers, a run continues
from its newest checkpoint as if it had never stopped, bit for bit; every worker takes every
decision alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mulm.errors import StoppedError
from mulm.train import state as states
from mulm.train.agreement import require_agreement
from mulm.train.checkpoint_writer import CheckpointWriter
from mulm.train.config import TrainConfig
from mulm.train.context import TrainContext
from mulm.train.metrics import Metrics
from mulm.train.objectives.base import Objective
from mulm.train.objectives.choice import choose_objective
from mulm.train.optim import grad_norm, learned_parameters
from mulm.train.room import with_room
from mulm.train.schedule import lr_scale
from mulm.train.settled import SettledConfig
from mulm.train.settling import Settled, settle
from mulm.train.state import TrainState
from mulm.train.sync.base import Sync
from mulm.train.sync.ddp import DdpSync
from mulm.train.sync.single import SingleSync

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; `model_id` is the stored model (worker 0 only, else empty).

    `validation` is the number that the objective is judged by, and `judged_by` its name.
    `tokens_per_s` is the mean over the steps since this process began, without the time of
    validation and checkpoints; None where the last step was done before.
    """

    steps: int
    loss: float
    validation: float
    judged_by: str
    tokens_per_s: float | None
    parameters: int
    model_id: str


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same during a run, and its state."""

    config: SettledConfig
    context: TrainContext
    objective: Objective[Any, Any]
    sync: Sync
    metrics: Metrics
    writer: CheckpointWriter
    state: TrainState


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over the global batch of a step, equal on every worker."""

    loss: float
    count: float
    is_stopping: bool
    also: Mapping[str, float]


def train(
    config: TrainConfig, context: TrainContext, objective: Objective[Any, Any] | None = None
) -> TrainResult:
    """Train to the last step, from the newest checkpoint if there is one.

    What the config leaves `auto` is settled first. Without an objective it is the one that the
    config means; an objective of its own is made from the same config.

    Raises:
        StoppedError: someone asked to stop; a checkpoint was written.
        TrainingDivergedError: the loss was not finite, or far too high, for several steps in a row,
            or that of the held-out text was not finite.
        DeviceError: the device's memory does not hold one row at once.
        CorruptError: the newest checkpoint is damaged, or workers begin with different weights.
        ConfigError, TokenizerMismatchError: it belongs to something else, or workers differ.
        NoSpaceError: a checkpoint or the model did not fit on the disk.
    """
    settled = settle(config, context.store, context.dataset, context.models)
    run = _begin(settled, context, objective or choose_objective(settled.config, context))
    try:
        while run.state.step < run.config.steps:
            totals = _add_up_gradients(run)
            _stop_if_asked(run, totals)
            _take_step(run, totals)
            _validate_if_due(run)
            _checkpoint_if_due(run)
        return _finish(run)
    finally:
        run.writer.close()
        run.metrics.close()


def _begin(settled: Settled, context: TrainContext, objective: Objective[Any, Any]) -> _Run:
    config = settled.config
    folder = context.folder / "checkpoints"
    state, is_resumed = states.begin(config, objective, context.device, folder)
    sync: Sync = SingleSync()
    if context.world_size > 1:
        sync = DdpSync(context.device)
        require_agreement(state, sync, context.rank, context.world_size)
    run = _Run(
        config=config,
        context=context,
        objective=objective,
        sync=sync,
        metrics=Metrics(context, state.step, config.steps),
        writer=CheckpointWriter(folder, config.keep_checkpoints, context.flush),
        state=state,
    )
    if is_resumed:
        run.metrics.event("resumed", step=state.step)
    run.metrics.event("log", text=_describe(run))
    for reason in settled.reasons:
        run.metrics.event("log", text=reason)
    return run


def _describe(run: _Run) -> str:
    config, context, state = run.config, run.context, run.state
    sync = "ddp" if context.world_size > 1 else "single"
    learned = "" if state.n_learned == state.n_parameters else f", {state.n_learned} learned"
    return (
        f"{state.n_parameters / 1e6:.1f} M parameters{learned},"
        f" {config.batch_tokens} tokens a step, {context.world_size} workers ({sync})"
        f" on {context.device.type}, {state.precision} ({state.precision_reason}),"
        f" {run.objective.manner}"
    )


def _add_up_gradients(run: _Run) -> _Totals:
    """Run this worker's rows forward and backward; gradients are those of summed losses."""
    own = _with_room(run, lambda: _own_sums(run))
    wants_stop = float(run.context.should_stop())
    loss, count, n_stopping, *also = run.sync.sum_values(
        [own.pop("loss"), own.pop("count"), wants_stop, *own.values()]
    )
    return _Totals(loss, count, n_stopping > 0, dict(zip(own, also, strict=True)))


def _own_sums(run: _Run) -> dict[str, float]:
    """Loss, count and what else is reported, over the micro-batches of this worker."""
    run.state.model.zero_grad(set_to_none=True)
    n_rows, context = run.config.n_rows, run.context
    start = n_rows * context.rank // context.world_size
    stop = n_rows * (context.rank + 1) // context.world_size
    sums: dict[str, float] = {"loss": 0.0, "count": 0.0}
    for batch in run.objective.micro_batches(run.state.step, start, stop):
        part = run.objective.loss(run.state.model, batch, run.state.dtype)
        part.total.backward()  # type: ignore[no-untyped-call]
        parts: dict[str, Any] = {"loss": part.total.detach(), "count": part.count, **part.also}
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _with_room(run: _Run, work: Callable[[], T]) -> T:
    def tell(text: str) -> None:
        run.metrics.event("log", text=f"step {run.state.step + 1}: {text}")

    return with_room(work, run.state.model, run.objective, tell)


def _stop_if_asked(run: _Run, totals: _Totals) -> None:
    """End between two steps, with a checkpoint of what is done."""
    if totals.is_stopping:
        _checkpoint(run)
        _tell(run, run.writer.wait())
        raise StoppedError(
            f"training stopped at step {run.state.step} of {run.config.steps}",
            hint="run the same command again to go on from there",
        )


def _take_step(run: _Run, totals: _Totals) -> None:
    """Move the weights, or pass over a step whose numbers are out of line."""
    state, config = run.state, run.config
    scale = lr_scale(state.step, config.steps, config.schedule)
    loss, norm = totals.loss / max(totals.count, 1.0), 0.0
    reason = "no token of it is to be learned"
    if totals.count:
        reason = state.watch.why_skip(loss, skips_spikes=config.skip_spikes)
    if not reason:
        norm = _mean_gradients(run, totals.count)
        reason = "" if math.isfinite(norm) else f"the norm of its gradient is {norm}"
    state.step += 1
    if reason:
        run.metrics.event("log", text=f"step {state.step} skipped: {reason}")
        state.watch.skipped(state.step, reason, is_bad=totals.count > 0)
        return
    state.optimizer.step(scale)
    state.watch.taken(loss)
    state.loss = loss
    if state.step % config.log_every == 0 or state.step == config.steps:
        also = {name: total / totals.count for name, total in totals.also.items()}
        values = {"loss": loss, "lr": scale * config.optimizer.lr, "grad_norm": norm}
        run.metrics.step(state.step, config.batch_tokens, values | also)


def _mean_gradients(run: _Run, count: float) -> float:
    """Make gradients the mean over the global batch; returns their norm."""
    named = learned_parameters(run.state.model)
    gradients = [p.grad for p in named.values() if p.grad is not None]
    assert len(gradients) == len(named)
    run.sync.sum_gradients(gradients)
    for gradient in gradients:
        gradient.div_(count)
    return grad_norm(named)


def _validate_if_due(run: _Run) -> None:
    step = run.state.step
    if step % run.config.validate_every == 0 or step == run.config.steps:
        _validate(run)


def _validate(run: _Run) -> None:
    started_s = run.context.now_s()
    state, objective = run.state, run.objective
    run.metrics.event("progress", stage="validate", done=state.step, total=run.config.steps)
    numbers = _with_room(run, lambda: objective.validate(state.model, state.dtype, run.sync))
    state.validation = numbers[objective.judged_by]
    run.metrics.metric(state.step, {f"validation_{name}": n for name, n in numbers.items()})
    run.metrics.pause_clock(run.context.now_s() - started_s)


def _checkpoint_if_due(run: _Run) -> None:
    _tell(run, run.writer.poll())
    step = run.state.step
    if step % run.config.checkpoint_every == 0 or step == run.config.steps:
        _checkpoint(run)


def _checkpoint(run: _Run) -> None:
    """Copy the state and have it written; training goes on meanwhile."""
    if run.context.rank == 0:
        started_s = run.context.now_s()
        _tell(run, run.writer.start(states.snapshot(run.state, run.config, run.objective)))
        run.metrics.pause_clock(run.context.now_s() - started_s)


def _tell(run: _Run, written_step: int | None) -> None:
    if written_step is not None:
        run.metrics.event("checkpoint", step=written_step)


def _finish(run: _Run) -> TrainResult:
    if run.state.validation is None:
        _validate(run)
    validation = run.state.validation
    assert validation is not None
    _tell(run, run.writer.wait())
    return TrainResult(
        steps=run.state.step,
        loss=run.state.loss,
        validation=validation,
        judged_by=run.objective.judged_by,
        tokens_per_s=run.metrics.tokens_per_s,
        parameters=run.state.n_parameters,
        model_id=_store(run) if run.context.rank == 0 else "",
    )


def _store(run: _Run) -> str:
    state = run.state
    n_tokens = (state.step - state.watch.n_skipped) * run.config.batch_tokens
    return run.objective.store(state.model, {"steps": state.step, "tokens": n_tokens})
