"""Everything that a checkpoint holds: weights, optimizer state, step, and what they belong to.

Made, saved and restored by the training loop. Invariant: two states with equal content go on
identically, bit for bit. There is no random state to keep: fresh weights come from the seed,
and the batch of a step is a pure function of objective, seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mulm.errors import ConfigError, CorruptError, TokenizerMismatchError
from mulm.model.checkpoint import Checkpoint, newest_checkpoint
from mulm.model.lora import is_adapter
from mulm.model.weights import require_fit, shapes
from mulm.train.config import TrainConfig
from mulm.train.device import DTYPES, choose_precision
from mulm.train.objectives.base import Objective
from mulm.train.optim import Optimizer, learned_parameters
from mulm.train.placement import EVERYTHING_HERE, Placement
from mulm.train.settled import SettledConfig
from mulm.train.spikes import LossWatch

IS_VALIDATED = "is_validated"
"""The fact of a checkpoint that says whether its validation is of its own step."""


@dataclass(slots=True)
class TrainState:
    """A run between two steps; `step` steps are done.

    `validation` is the newest number that the objective, under the name `judged_by`, is judged by,
    and `validated_step` the step after which it was measured.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: str
    precision_reason: str
    step: int = 0
    loss: float = float("nan")
    validation: float | None = None
    validated_step: int | None = None
    watch: LossWatch = field(default_factory=LossWatch)

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products and the stream."""
        return DTYPES[self.precision]

    @property
    def n_parameters(self) -> int:
        """Numbers of the model, adapters not counted; what two layers share counts once."""
        named = self.model.named_parameters()
        return sum(parameter.numel() for name, parameter in named if not is_adapter(name))

    @property
    def n_learned(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in learned_parameters(self.model).values())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a state between two steps: what a checkpoint holds.

    `judged` is what the objective is judged by, where it was measured after this very step.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    judged: float | None = None


def begin(
    config: SettledConfig,
    objective: Objective[Any, Any],
    device: torch.device,
    folder: Path,
    placement: Placement = EVERYTHING_HERE,
) -> tuple[TrainState, bool]:
    """The newest checkpoint's state, else a fresh one; and whether it was resumed.

    Raises:
        CorruptError: the newest checkpoint is damaged.
        ConfigError: it belongs to another configuration, dataset or other origin.
        TokenizerMismatchError: it belongs to another tokenizer.
    """
    saved = newest_checkpoint(folder)
    if saved:
        check_same_run(saved.state, config, objective.origin)
    precision, reason = choose_precision(config.precision, device.type)
    if saved and config.precision == "auto":
        precision, reason = str(saved.state["precision"]), "as the run began"
    model = objective.build(torch.Generator().manual_seed(config.seed))
    state = fresh(config, model, device, precision, reason, placement)
    if saved:
        restore(state, saved, objective.judged_by)
    return state, saved is not None


def fresh(
    config: SettledConfig,
    model: nn.Module,
    device: torch.device,
    precision: str,
    precision_reason: str = "",
    placement: Placement = EVERYTHING_HERE,
) -> TrainState:
    """A state before the first step; equal on every worker."""
    model = model.to(device)
    optimizer = Optimizer(model, config.optimizer, DTYPES[precision], placement)
    return TrainState(model, optimizer, precision, precision_reason)


def restore(state: TrainState, saved: Checkpoint, judged_by: str) -> None:
    """Copy a checkpoint into a fresh state."""
    own, weights = learned_tensors(state.model), _with_prefix(saved.tensors, "model.")
    require_fit(shapes(weights), shapes(own), f"step {saved.step}")
    for name, tensor in own.items():
        tensor.copy_(weights[name])
    state.optimizer.load_tensors(_with_prefix(saved.tensors, "optimizer."))
    try:
        state.step = saved.step
        loss = saved.state["loss"]
        state.loss = float("nan") if loss is None else float(loss)
        state.validation = saved.state[judged_by]
        state.validated_step = state.step if saved.state.get(IS_VALIDATED) else None
        state.watch = LossWatch(**saved.state["loss_watch"])
    except KeyError as error:
        raise CorruptError(f"the checkpoint of step {saved.step} lacks {error}") from None


def snapshot(
    state: TrainState,
    config: SettledConfig,
    objective: Objective[Any, Any],
    optimizer: Mapping[str, Tensor],
) -> Snapshot:
    """Copy all that a checkpoint holds, in the memory of the CPU.

    `optimizer` is the whole state that was collected from all workers.
    """
    is_validated = state.validated_step == state.step
    facts = {
        IS_VALIDATED: is_validated,
        "loss": state.loss if state.loss == state.loss else None,  # JSON has no NaN
        objective.judged_by: state.validation,
        "loss_watch": state.watch.facts(),
        "precision": state.precision,
        "config": config.model_dump(mode="json"),
        **objective.origin,
    }
    tensors = named_tensors(state, optimizer)
    copies = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}
    return Snapshot(state.step, copies, facts, state.validation if is_validated else None)


def named_tensors(state: TrainState, optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The live weights that are learned, and an optimizer's state, by name."""
    weights = {f"model.{name}": t for name, t in learned_tensors(state.model).items()}
    return weights | {f"optimizer.{name}": t for name, t in optimizer.items()}


def common_tensors(state: TrainState) -> dict[str, Tensor]:
    """What every worker has: all but the states that one worker keeps for all."""
    own, held = state.optimizer.tensors(), state.optimizer.holders()
    return named_tensors(state, {name: t for name, t in own.items() if name not in held})


def learned_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The live tensors of a model but those that are frozen: those are where they came from."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: t for name, t in model.state_dict().items() if name not in frozen}


def check_same_run(
    saved: Mapping[str, Any], config: SettledConfig, origin: Mapping[str, Any]
) -> None:
    """Refuse to go on from a checkpoint of something else."""
    hint = "train under a new run id, or name the {} that the run began with"
    gone = sorted(saved.keys() & SettledConfig.REFERENCES.keys() - origin.keys())
    for key in (*origin, *gone):
        value = origin.get(key)
        if key == "tokenizer_fingerprint" and saved.get(key) != value:
            raise TokenizerMismatchError(
                f"the checkpoint was trained with tokenizer {saved.get(key)},"
                f" the dataset {origin.get('dataset')} was made with {value}",
                hint=hint.format("dataset"),
            )
        if saved.get(key) != value:
            raise ConfigError(
                f"the run began with the {key} {saved.get(key)}, not {value}",
                hint=hint.format(key),
            )
    # Fields that are newer than the checkpoint had no other value yet.
    defaults = TrainConfig(name="x", dataset="x").model_dump(mode="json")
    began, now = defaults | saved["config"], config.model_dump(mode="json")
    # The origin has the ids of what is referred to.
    ignored = SettledConfig.NOT_IDENTITY | SettledConfig.REFERENCES.keys()
    if began.get("sync") == now["sync"] == "auto":
        ignored |= {"diloco", "wire_dtype"}  # chosen anew each time, by what was measured
    for key in sorted(began.keys() | now.keys()):
        if key not in ignored and began.get(key) != now.get(key):
            raise ConfigError(
                f"{key}: the run began with {began.get(key)!r}, not {now.get(key)!r}",
                hint="train under a new run id, or resume with the configuration it began with",
            )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
