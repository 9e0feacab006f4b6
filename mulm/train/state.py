"""Everything that a checkpoint holds: weights, optimizer state, step, and what they belong to.

Made, saved and restored by the training loop. Invariant: two states with equal content go on
identically, bit for bit. There is no random state to keep: fresh weights come from the seed,
and the batch of a step is a pure function of dataset, seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mulm.errors import ConfigError, CorruptError, TokenizerMismatchError
from mulm.manifest import Manifest
from mulm.model.checkpoint import Checkpoint, newest_checkpoint
from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.weights import load_weights
from mulm.train.config import TrainConfig
from mulm.train.device import DTYPES, choose_precision
from mulm.train.optim import Optimizer


@dataclass(slots=True)
class TrainState:
    """A run between two steps; `step` steps are done."""

    model: MicroLM
    optimizer: Optimizer
    precision: str
    precision_reason: str
    compute: Compute
    separator_id: int | None = None
    """The token that begins a document, where documents are kept apart."""
    step: int = 0
    loss: float = float("nan")
    bits_per_byte: float | None = None
    n_skipped: int = 0
    n_skipped_in_row: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products and the stream."""
        return DTYPES[self.precision]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a state between two steps: what a checkpoint holds."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def begin(
    config: TrainConfig, dataset: Manifest, device: torch.device, folder: Path
) -> tuple[TrainState, bool]:
    """The newest checkpoint's state, else a fresh one; and whether it was resumed.

    Raises:
        CorruptError: the newest checkpoint is damaged.
        ConfigError: it belongs to another configuration or dataset.
        TokenizerMismatchError: it belongs to another tokenizer.
    """
    saved = newest_checkpoint(folder)
    if saved:
        check_same_run(saved.state, config, dataset)
    precision, reason = choose_precision(config.precision, device.type)
    if saved and config.precision == "auto":
        precision, reason = str(saved.state["precision"]), "as the run began"
    shape = config.shape(int(dataset.counts["vocab_size"]))
    state = fresh(config, shape, device, precision, reason)
    if saved:
        restore(state, saved)
    return state, saved is not None


def fresh(
    config: TrainConfig,
    shape: MicroLMConfig,
    device: torch.device,
    precision: str,
    precision_reason: str = "",
) -> TrainState:
    """A state before the first step; equal on every worker."""
    generator = torch.Generator().manual_seed(config.seed)
    model = MicroLM(shape).init_weights(generator).to(device)
    optimizer = Optimizer(model, config.optimizer, DTYPES[precision])
    compute = Compute(DTYPES[precision], config.attention, config.activation_checkpointing)
    return TrainState(model, optimizer, precision, precision_reason, compute)


def restore(state: TrainState, saved: Checkpoint) -> None:
    """Copy a checkpoint into a fresh state."""
    weights = _with_prefix(saved.tensors, "model.")
    load_weights(state.model, weights, f"step {saved.step}")
    state.optimizer.load_tensors(_with_prefix(saved.tensors, "optimizer."))
    try:
        state.step = saved.step
        loss = saved.state["loss"]
        state.loss = float("nan") if loss is None else float(loss)
        state.bits_per_byte = saved.state["bits_per_byte"]
        state.n_skipped = int(saved.state["n_skipped"])
        state.n_skipped_in_row = int(saved.state["n_skipped_in_row"])
    except KeyError as error:
        raise CorruptError(f"the checkpoint of step {saved.step} lacks {error}") from None


def snapshot(state: TrainState, config: TrainConfig, dataset: Manifest) -> Snapshot:
    """Copy all that a checkpoint holds, in the memory of the CPU."""
    facts = {
        "loss": state.loss if state.loss == state.loss else None,  # JSON has no NaN
        "bits_per_byte": state.bits_per_byte,
        "n_skipped": state.n_skipped,
        "n_skipped_in_row": state.n_skipped_in_row,
        "precision": state.precision,
        "config": config.model_dump(mode="json"),
        "dataset": dataset.id,
        "tokenizer_fingerprint": dataset.tokenizer_fingerprint,
    }
    copies = {name: t.detach().to("cpu", copy=True) for name, t in all_tensors(state).items()}
    return Snapshot(state.step, copies, facts)


def all_tensors(state: TrainState) -> dict[str, Tensor]:
    """The live weights and optimizer state by name."""
    weights = {f"model.{name}": t for name, t in state.model.state_dict().items()}
    return weights | {f"optimizer.{name}": t for name, t in state.optimizer.tensors().items()}


def check_same_run(saved: dict[str, Any], config: TrainConfig, dataset: Manifest) -> None:
    """Refuse to go on from a checkpoint of something else."""
    if saved["tokenizer_fingerprint"] != dataset.tokenizer_fingerprint:
        raise TokenizerMismatchError(
            f"the checkpoint was trained with tokenizer {saved['tokenizer_fingerprint']},"
            f" the dataset {dataset.id} was made with {dataset.tokenizer_fingerprint}",
            hint="train under a new run id, or name the dataset that the run began with",
        )
    if saved["dataset"] != dataset.id:
        raise ConfigError(
            f"the run began with the dataset {saved['dataset']}, not {dataset.id}",
            hint="train under a new run id, or name the dataset that the run began with",
        )
    began, now = saved["config"], config.model_dump(mode="json")
    for key in sorted(began.keys() | now.keys()):
        if key not in TrainConfig.NOT_IDENTITY | {"dataset"} and began.get(key) != now.get(key):
            raise ConfigError(
                f"{key}: the run began with {began.get(key)!r}, not {now.get(key)!r}",
                hint="train under a new run id, or resume with the configuration it began with",
            )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
