"""What a training run would be, told before anything starts.

Called by `mulm train --dry-run`. Invariant: it refuses what the run would refuse at its start, and
writes nothing. How long it takes and what it costs is `mulm.train.estimate`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from mulm.facts import Facts
from mulm.model.attention import choose_kernel
from mulm.model.config import AttentionKernel, MicroLMConfig
from mulm.store import Store
from mulm.train.compiling import choose_compiled
from mulm.train.config import TrainConfig
from mulm.train.device import choose_device, choose_precision, memory_bytes
from mulm.train.estimate import Work
from mulm.train.exporters.registry import require_exporters
from mulm.train.host_memory import require_host_memory
from mulm.train.local import check_run, resolve_dataset, resolve_models
from mulm.train.memory import step_memory
from mulm.train.micro_batch import choose_micro_batch
from mulm.train.objectives.microlm import frozen_bytes
from mulm.train.optimizer_memory import n_adapter_parameters
from mulm.train.placement import choose_placement, step_choices
from mulm.train.settled import SettledConfig
from mulm.train.settling import run_shape


@dataclass(frozen=True, slots=True)
class Preview:
    """A run as this machine would carry it out."""

    name: str
    dataset: str
    models: dict[str, str]
    config: dict[str, Any]
    """With numbers where `auto` may stand."""
    shape: dict[str, Any]
    """The fields of its `MicroLMConfig`."""
    parameters: int
    learned: int
    device: str
    precision: str
    rows_at_once: int
    rows_reason: str
    memory_bytes: int
    """The peak of a step on one device, by arithmetic, with the models that are only read."""
    device_bytes: int | None
    """None for a CPU."""
    steps: int
    workers: int
    tokens: int
    dataset_tokens: int
    settled: tuple[str, ...]
    """The values that the config left `auto`, each with its reason."""


def preview(config: TrainConfig, store: Store, facts: Facts) -> Preview:
    """Look at all that the run would read.

    Raises:
        DeviceError: the device that was asked for is absent, cannot hold the run, or lacks what
            `compile: true` needs.
        ConfigError: `export_to` needs a package that is not here.
        MulmError: what `resolve_dataset`, `resolve_models` and `check_run` refuse.
    """
    require_exporters(config.export_to)
    device, _ = choose_device(config.device)
    dataset = resolve_dataset(config, store, facts)
    models = resolve_models(config, dataset, store, facts)
    config, reasons = check_run(config, dataset, models, store)
    shape = run_shape(config, store, dataset, models)
    precision, _ = choose_precision(config.precision, device)
    frozen = frozen_bytes(config, models)
    choose_compiled(config, shape, device)
    if device == "cpu":
        require_host_memory(config, shape, precision, frozen)
    device_bytes = memory_bytes(torch.device(device))
    room = None if device_bytes is None else max(0, device_bytes - frozen)
    rows, reason = choose_micro_batch(config, shape, device, precision, room)
    own_rows = -(-config.n_rows // config.workers)
    placed = choose_placement(config, shape, device, precision, room, config.workers)
    choices = replace(
        step_choices(config, device, precision, min(rows, own_rows), placed),
        kernel=_kernel(config, device, shape.d_head),
        n_micro_batches=-(-own_rows // rows),
    )
    return Preview(
        name=config.name,
        dataset=dataset.id,
        models={role: model.id for role, model in models.items()},
        config=config.model_dump(mode="json"),
        shape=shape.to_stored(),
        parameters=shape.n_parameters,
        learned=n_adapter_parameters(shape, config.lora) or shape.n_parameters,
        device=device,
        precision=precision,
        rows_at_once=rows,
        rows_reason=reason,
        memory_bytes=frozen + step_memory(shape, choices).peak_bytes,
        device_bytes=device_bytes,
        steps=config.steps,
        workers=config.workers,
        tokens=config.steps * config.batch_tokens,
        dataset_tokens=int(dataset.counts["train_tokens"]),
        settled=reasons,
    )


def _kernel(config: SettledConfig, device: str, d_head: int) -> AttentionKernel:
    kernel, _ = choose_kernel(config.attention, device, config.seq_len, d_head)
    return kernel


def work_of(plan: Preview) -> Work:
    """What the run of a preview computes, to be estimated."""
    config = SettledConfig.model_validate(plan.config)
    shape = MicroLMConfig.model_validate(plan.shape)
    return Work(config, shape, plan.device, plan.precision, plan.rows_at_once)


def describe(plan: Preview) -> Iterator[str]:
    """The preview as lines for a terminal."""
    learned = "" if plan.learned == plan.parameters else f", {plan.learned:,} of adapters learn"
    yield f"{plan.name}: {plan.parameters:,} parameters{learned}"
    made_from = [f"{role} {model_id}" for role, model_id in plan.models.items()]
    yield f"from: {', '.join([f'dataset {plan.dataset}', *made_from])}"
    yield f"device: {plan.device}, {plan.precision}, {plan.workers} workers"
    of_device = f" of {plan.device_bytes / 1e9:.1f} GB" if plan.device_bytes else ""
    yield (
        f"memory: {plan.memory_bytes / 1e9:.2f} GB{of_device} a device,"
        f" {plan.rows_at_once} rows at once ({plan.rows_reason})"
    )
    epochs = plan.tokens / max(1, plan.dataset_tokens)
    yield f"tokens: {plan.tokens:,} in {plan.steps:,} steps, {epochs:.1f} times the dataset's"
    yield from (f"auto: {choice}" for choice in plan.settled)
