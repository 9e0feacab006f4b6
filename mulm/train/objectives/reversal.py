"""Reversal: the paper's Transformer learns to say a sequence backwards.

An example of an objective with another model and without a dataset, and the proof that the
Transformer learns; `python -m mulm.train.objectives.reversal` shows it within two minutes on two
cores, and needs about half a minute of one.
Invariants: see `base`; rows are made from the run's seed and the step alone.
Shape letters: B rows, S source tokens, T target tokens, V vocabulary.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mulm import __version__
from mulm.config import canonical_json
from mulm.data.loader import IGNORED_TARGET
from mulm.errors import ConfigError, TrainingDivergedError
from mulm.manifest import Manifest
from mulm.model.transformer import Transformer, TransformerConfig
from mulm.model.transformer_decoding import decode_greedily
from mulm.model.transformer_training import sum_smoothed_cross_entropy
from mulm.model.weights import tensors_to_bytes
from mulm.store import Store
from mulm.train.context import LocalContext, TrainContext
from mulm.train.loop import train
from mulm.train.micro_batch import FILLING_TOKENS, MicroBatch, halved
from mulm.train.objectives.base import SummedLoss
from mulm.train.settled import SettledConfig
from mulm.train.sync.base import Sync

PAD, BEGIN, END, N_SPECIAL = 0, 1, 2, 3
SHAPE = TransformerConfig(
    vocab_size=N_SPECIAL + 16, d_model=64, n_layers=2, n_heads=4, d_ff=128, max_seq_len=16
)
"""A Transformer of 0.2 M parameters for 16 symbols."""
CONFIG: dict[str, Any] = {
    "name": "reversal",
    "dataset": "none",
    "seq_len": 11,
    "batch_tokens": 11 * 64,
    "steps": 900,
    "optimizer": {
        "kind": "adamw",
        "matrix_lr": 0.002,
        "embedding_lr": 0.002,
        "weight_decay": 0.0,
    },
    "schedule": {"warmup": 0.1, "decay": 0.5},
    "validate_every": 100,
    "checkpoint_every": 300,
}
"""A `SettledConfig` that teaches it sequences of up to 10 symbols in a minute or two on a CPU."""
_HELD_OUT = -1
"""Stands for the step of rows that no step has."""


Batch = tuple[Tensor, Tensor, Tensor, int]
"""source_BS, what the decoder reads (B, T), what it is to say (B, T), and the seed of dropout."""


class Reversal:
    """`Objective` of a Transformer on random sequences of up to `seq_len` - 1 symbols.

    Args:
        config: `n_rows`, `seq_len` and `seed` decide the rows; `preset` and `model` mean nothing.
        context: Its dataset is not read.
        shape: The Transformer; all entries of its vocabulary but three are symbols.
        smoothing: The share of each target that label smoothing spreads out.
        n_held_out: Sequences that validation reverses.

    Raises:
        ConfigError: the shape has no symbols, or fewer positions than the rows have.
    """

    judged_by = "exact"
    higher_is_better = True

    def __init__(
        self,
        config: SettledConfig,
        context: TrainContext,
        shape: TransformerConfig,
        smoothing: float = 0.1,
        n_held_out: int = 512,
    ) -> None:
        if shape.vocab_size <= N_SPECIAL or shape.max_seq_len < config.seq_len or shape.pad_id:
            raise ConfigError(
                f"a Transformer with {shape.vocab_size} entries, {shape.max_seq_len} positions and"
                f" padding {shape.pad_id} cannot reverse rows of {config.seq_len}",
                hint=f"use more than {N_SPECIAL} entries, as many positions, padding {PAD}",
            )
        self.config, self.context, self.shape = config, context, shape
        self.smoothing, self.n_held_out = smoothing, n_held_out
        rows = max(1, FILLING_TOKENS[context.device.type] // config.seq_len)
        self._micro_batch = MicroBatch(rows, "they fill it")

    @property
    def origin(self) -> Mapping[str, Any]:
        """The shape, and how it is taught."""
        return {"transformer": asdict(self.shape), "smoothing": self.smoothing}

    @property
    def manner(self) -> str:
        """Rows at once."""
        return f"{self._micro_batch.rows} rows at once"

    def build(self, generator: torch.Generator) -> Transformer:
        """Fresh weights."""
        return Transformer(self.shape).init_weights(generator)

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Batch]:
        """Rows of the step's global batch, all of which is made anew each time: it is small."""
        rows = [t.to(self.context.device) for t in self._rows(step, self.config.n_rows)]
        n_at_once = self._micro_batch.rows
        for first in range(start, stop, n_at_once):
            source_BS, read_BT, said_BT = (t[first : min(first + n_at_once, stop)] for t in rows)
            yield source_BS, read_BT, said_BT, _seed(self.config.seed, step, first)

    def loss(self, model: Transformer, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """Smoothed cross-entropy in nats of what is to be said."""
        source_BS, read_BT, said_BT, seed = batch
        device = source_BS.device
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        ):
            torch.manual_seed(seed)  # dropout draws from torch's own generator
            logits_BTV = model(source_BS, read_BT)
        nats = sum_smoothed_cross_entropy(logits_BTV, said_BT, self.smoothing)
        return SummedLoss(nats, int((said_BT != IGNORED_TARGET).sum()))

    def shrink(self) -> int | None:
        """The next smaller power of two."""
        smaller = halved(self._micro_batch)
        self._micro_batch = smaller or self._micro_batch
        return smaller.rows if smaller else None

    @torch.no_grad()
    def validate(self, model: Transformer, dtype: torch.dtype, sync: Sync) -> dict[str, float]:
        """The share of held-out sequences that greedy decoding reverses without a mistake.

        They come from a stream of their own. Short ones may have been trained on by chance.
        """
        rank, n_workers, device = self.context.rank, self.context.world_size, self.context.device
        rows = self._rows(_HELD_OUT, self.n_held_out)
        source_BS, read_BT, said_BT = (tensor[rank::n_workers].to(device) for tensor in rows)
        is_training = model.training
        model.eval()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits_BTV = model(source_BS, read_BT)
            answers = reverse(model, source_BS)
        model.train(is_training)
        own_nats = float(sum_smoothed_cross_entropy(logits_BTV, said_BT, 0.0))
        n_exact = sum(a == symbols(s)[::-1] for a, s in zip(answers, source_BS, strict=True))
        n_said = int((said_BT != IGNORED_TARGET).sum())
        nats, n_targets, n_right = sync.sum_values([own_nats, n_said, n_exact])
        if not math.isfinite(nats):
            raise TrainingDivergedError(
                "the loss on held-out sequences is not a finite number",
                hint="train with a lower optimizer.embedding_lr",
            )
        return {"exact": n_right / self.n_held_out, "nats_per_token": nats / n_targets}

    def store(self, model: Transformer, counts: Mapping[str, int]) -> str:
        """Weights and shape."""
        store = self.context.store
        manifest = Manifest(
            kind="model",
            code_version=__version__,
            config={"training": self.config.model_dump(mode="json"), **self.origin},
            counts=dict(counts),
            blobs=(
                store.put("config.json", canonical_json(asdict(self.shape))),
                store.put("model.safetensors", tensors_to_bytes(model.state_dict())),
            ),
        )
        store.save(manifest)
        return manifest.id

    def _rows(self, step: int, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sources, what the decoder reads, and what it is to say, (B, seq_len) each."""
        generator = torch.Generator().manual_seed(_seed(self.config.seed, step, -1))
        longest = self.config.seq_len - 1
        lengths_B1 = torch.randint(1, longest + 1, (n_rows, 1), generator=generator)
        shape = (n_rows, longest + 1)
        random_BS = torch.randint(N_SPECIAL, self.shape.vocab_size, shape, generator=generator)
        place_S = torch.arange(longest + 1)
        source_BS = random_BS.masked_fill(place_S >= lengths_B1, PAD)
        mirrored_BS = source_BS.gather(1, (lengths_B1 - 1 - place_S).clamp(min=0))
        said_BT = mirrored_BS.masked_fill(place_S == lengths_B1, END)
        said_BT = said_BT.masked_fill(place_S > lengths_B1, IGNORED_TARGET)
        read_BT = said_BT.roll(1, dims=1).masked_fill(place_S > lengths_B1, PAD)
        read_BT[:, 0] = BEGIN
        return source_BS, read_BT, said_BT


def reverse(model: Transformer, source_BS: Tensor) -> list[tuple[int, ...]]:
    """What the model says for each source, by greedy decoding."""
    longest = source_BS.shape[1]
    return decode_greedily(model, source_BS, begin_id=BEGIN, end_id=END, max_tokens=longest)


def symbols(source_S: Tensor) -> tuple[int, ...]:
    """The tokens of a source without its padding."""
    return tuple(token for token in source_S.tolist() if token != PAD)


def _seed(seed: int, step: int, row: int) -> int:
    """One number for each row of each step; row -1 is the step's own."""
    return ((seed * 1_000_003 + step) * 100_003 + row) % 2**63


def main() -> None:
    """Train, and print how it went."""
    config = SettledConfig.model_validate(CONFIG)

    def on_event(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "metric" and "validation_exact" in data:
            exact, nats = data["validation_exact"], data["validation_nats_per_token"]
            print(f"step {data['step']:>4}   {exact:7.1%} exact   {nats:.4f} nats per token")

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        nothing = Manifest(kind="dataset", code_version=__version__, config={}, blobs=())
        device = torch.device("cpu")
        context = LocalContext(store, nothing, Path(folder), device, on_event, lambda: False)
        objective = Reversal(config, context, SHAPE)
        result = train(config, context, objective)
        print(f"{result.parameters:,} parameters, {result.tokens_per_s:,.0f} tokens per second")


if __name__ == "__main__":
    main()
