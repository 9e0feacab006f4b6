"""The training loop: the same alone, in a test, or in one of many Ray Train workers.

Called with a configuration and a context. What is trained, and on what, is the objective's
business (`mulm.train.objectives.base`). Invariants: the global batch of a step does not depend on
the number of workers; killed at any moment and started again with as many workers, a run continues
from its newest checkpoint as if it had never stopped, bit for bit (of workers whose speeds differ
only with `balance: false`); every worker takes every decision alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mulm.errors import StoppedError
from mulm.train import state as states
from mulm.train.agreement import require_agreement
from mulm.train.checkpoint_writer import CheckpointWriter, Written, checkpoint_folder
from mulm.train.config import TrainConfig
from mulm.train.context import TrainContext
from mulm.train.course import Course, choose_course
from mulm.train.metrics import Metrics
from mulm.train.micro_batch import marked_last
from mulm.train.objectives.base import Objective
from mulm.train.objectives.choice import choose_objective
from mulm.train.optim import learned_parameters
from mulm.train.result import TrainResult
from mulm.train.room import with_emptied_cache, with_room
from mulm.train.samples import Samples
from mulm.train.schedule import lr_scale
from mulm.train.settled import SettledConfig
from mulm.train.settling import Settled, settle
from mulm.train.shares import Shares
from mulm.train.state import TrainState
from mulm.train.sync.base import Sync
from mulm.train.sync.choice import choose_sync
from mulm.train.usage import Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same during a run, and its state."""

    config: SettledConfig
    context: TrainContext
    objective: Objective[Any, Any]
    sync: Sync
    course: Course
    shares: Shares
    metrics: Metrics
    samples: Samples
    writer: CheckpointWriter
    state: TrainState


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums over the global batch of a step, equal on every worker but for its own count."""

    loss: float
    own_count: float
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
        while run.course.goes_on(run.state.step):
            totals = _add_up_gradients(run)
            _stop_if_asked(run, totals)
            before = run.state.step
            _take_step(run, totals)
            _balance_if_due(run)
            _look_if_due(run, before)
        return _finish(run)
    finally:
        run.course.close()
        run.writer.close()
        run.metrics.close()


def _begin(settled: Settled, context: TrainContext, objective: Objective[Any, Any]) -> _Run:
    config, folder = settled.config, checkpoint_folder(context)
    sync, placement = choose_sync(config, context)
    state, is_resumed = states.begin(config, objective, context.device, folder, placement)
    sync.attach(
        list(learned_parameters(state.model).values()), list(state.optimizer.owners.values())
    )
    if context.world_size > 1:
        require_agreement(state, sync, context.rank, context.world_size)
    course = choose_course(config, context, sync, is_resumed=is_resumed)
    usage = Usage.of_run(config, context, state.model, state.dtype)
    metrics = Metrics(context, config, state.step, usage, lambda: course.is_leading)
    run = _Run(
        config=config,
        context=context,
        objective=objective,
        sync=sync,
        course=course,
        shares=Shares(course.n_rows, context, is_balanced=config.balance),
        metrics=metrics,
        samples=Samples(config, context, state.model, metrics),
        writer=CheckpointWriter.of_run(config, context, objective),
        state=state,
    )
    if is_resumed:
        run.metrics.event("resumed", step=state.step)
    run.metrics.begin((_describe(run), usage.text, *settled.reasons))
    return run


def _describe(run: _Run) -> str:
    config, context, state = run.config, run.context, run.state
    learned = "" if state.n_learned == state.n_parameters else f", {state.n_learned} learned"
    return (
        f"{state.n_parameters / 1e6:.1f} M parameters{learned},"
        f" {config.batch_tokens} tokens a step, {context.world_size} workers ({run.sync.manner})"
        f" on {context.device.type}, {state.precision} ({state.precision_reason}),"
        f" {state.optimizer.placement.manner}, {run.objective.manner}"
    )


def _add_up_gradients(run: _Run) -> _Totals:
    """Run this worker's rows forward and backward; gradients are those of summed losses."""
    with run.shares.timed():
        own = _with_room(run, lambda: _own_sums(run))
    own_count = own["count"]
    wants_stop = float(run.context.should_stop())
    loss, count, n_stopping, *also = run.sync.sum_values(
        [own.pop("loss"), own.pop("count"), wants_stop, *own.values()]
    )
    return _Totals(loss, own_count, count, n_stopping > 0, dict(zip(own, also, strict=True)))


def _own_sums(run: _Run) -> dict[str, float]:
    """Loss, count and what else is reported, over the micro-batches of this worker."""
    run.state.model.zero_grad(set_to_none=True)
    batches = run.objective.micro_batches(*run.course.rows(run.state.step, run.shares.own))
    sums: dict[str, float] = {"loss": 0.0, "count": 0.0}
    for batch, is_last in marked_last(batches):
        part = run.objective.loss(run.state.model, batch, run.state.dtype)
        with run.sync.backward(is_last=is_last):
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
        run.sync.drop()
        run.course.stop()
        if run.course.is_leading:
            _checkpoint(run)
        _tell(run, run.writer.wait())
        raise StoppedError(
            f"training stopped at step {run.state.step} of {run.config.steps}",
            hint="run the same command again to go on from there",
        )


def _take_step(run: _Run, totals: _Totals) -> None:
    """Move the weights, or pass over a step whose numbers are out of line."""
    state, config = run.state, run.config
    scale = lr_scale(state.step, config.steps, config.schedule) * run.course.warmth()
    loss, norm, norms_P = totals.loss / max(totals.count, 1.0), 0.0, None
    reason = "no token of it is to be learned"
    if totals.count:
        reason = state.watch.why_skip(loss, skips_spikes=config.skip_spikes)
    if not reason:
        norms_P = run.sync.mean_gradients(totals.own_count, totals.count)
        norm = float(norms_P.norm())
        reason = "" if math.isfinite(norm) else f"the norm of its gradient is {norm}"
    before, state.step = state.step, run.course.after(state.step)
    if reason:
        run.metrics.event("log", text=f"step {state.step} skipped: {reason}")
        run.sync.drop()
        state.watch.skipped(state.step, reason, is_bad=totals.count > 0)
        return
    with_emptied_cache(lambda: state.optimizer.step(scale, norms_P))
    run.sync.after_step()
    run.metrics.took_step(state.step)
    state.watch.taken(loss)
    state.loss = loss
    if _is_due(run, before, config.log_every):
        also = {name: total / totals.count for name, total in totals.also.items()}
        values = {"loss": loss, "lr": scale * config.optimizer.lr, "grad_norm": norm}
        run.metrics.step(state.step, values | also)


def _balance_if_due(run: _Run) -> None:
    reason = run.shares.rebalance(run.sync)
    if reason:
        run.metrics.event("log", text=f"step {run.state.step}: {reason}")


def _look_if_due(run: _Run, before: int) -> None:
    """Validate, ask for samples, write a checkpoint, where a step since `before` is the time."""
    step, config = run.state.step, run.config
    is_ours = run.course.is_leading and step != before
    if is_ours and _is_due(run, before, config.validate_every):
        _validate(run)
    if is_ours:
        run.samples.tell_if_due(run.state.model, before, step)
    _tell(run, run.writer.poll())
    if is_ours and _is_due(run, before, config.checkpoint_every):
        _checkpoint(run)


def _is_due(run: _Run, before: int, every: int) -> bool:
    """Whether what is to be done every so many steps, and at the last, is to be done now."""
    step = run.state.step
    return step // every > before // every or (step == run.config.steps and step != before)


def _validate(run: _Run) -> None:
    started_s = run.context.now_s()
    state, objective = run.state, run.objective
    run.metrics.event("progress", stage="validate", done=state.step, total=run.config.steps)
    numbers = _with_room(run, lambda: objective.validate(state.model, state.dtype, run.sync))
    state.validation, state.validated_step = numbers[objective.judged_by], state.step
    run.metrics.metric(state.step, {f"validation_{name}": n for name, n in numbers.items()})
    run.metrics.pause_clock(run.context.now_s() - started_s)


def _checkpoint(run: _Run) -> None:
    """Copy the state, of which each worker may have a part, and have it written meanwhile."""
    started_s = run.context.now_s()
    optimizer = run.state.optimizer.collected()
    if run.context.rank == 0:
        copied = states.snapshot(run.state, run.config, run.objective, optimizer)
        _tell(run, run.writer.start(copied))
        run.metrics.pause_clock(run.context.now_s() - started_s)


def _tell(run: _Run, written: Written | None) -> None:
    if written is not None:
        run.metrics.event("checkpoint", step=written.step, is_best=written.is_best)


def _finish(run: _Run) -> TrainResult:
    before, run.state.step = run.state.step, run.course.end(run.state.step)
    _look_if_due(run, before)
    is_leading = run.course.is_leading
    if run.state.validation is None and is_leading:
        _validate(run)
    validation = run.state.validation if is_leading else math.nan
    assert validation is not None
    _tell(run, run.writer.wait())
    return TrainResult(
        steps=run.state.step,
        loss=run.state.loss,
        validation=validation,
        judged_by=run.objective.judged_by,
        tokens_per_s=run.metrics.tokens_per_s,
        parameters=run.state.n_parameters,
        model_id=_store(run) if run.context.rank == 0 and is_leading else "",
    )


def _store(run: _Run) -> str:
    state = run.state
    n_tokens = (state.step - state.watch.n_skipped) * run.config.batch_tokens
    return run.objective.store(state.model, {"steps": state.step, "tokens": n_tokens})
