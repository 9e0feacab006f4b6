"""The shapes on which training is measured, and a dataset of random tokens for them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mulm import __version__
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.weights import tensor_bytes
from mulm.store import Store


class Measured(NamedTuple):
    """A shape, and the rows of one step."""

    shape: MicroLMConfig
    rows: int

    @property
    def seq_len(self) -> int:
        """Tokens of a row: the whole window."""
        return self.shape.max_seq_len

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.seq_len


SHAPES = {
    "S": Measured(
        MicroLMConfig(
            vocab_size=16384, d_model=384, n_layers=8, n_heads=6, n_kv_heads=3, d_head=64,
            d_ff=1024, max_seq_len=512,
        ), 8,
    ),
    "T": Measured(
        MicroLMConfig(
            vocab_size=4096, d_model=128, n_layers=4, n_heads=4, n_kv_heads=2, d_head=32,
            d_ff=344, max_seq_len=256,
        ), 16,
    ),
}  # fmt: skip


def random_ids(measured: Measured, step: int) -> torch.Tensor:
    """Rows of one token more than the window: inputs and, one later, targets."""
    generator = torch.Generator().manual_seed(step)
    size = (measured.rows, measured.seq_len + 1)
    return torch.randint(0, measured.shape.vocab_size, size, generator=generator)


def random_dataset(store: Store, measured: Measured) -> Manifest:
    """A dataset version of random tokens; its tokenizer is a stand-in."""
    vocab_size, counts = measured.shape.vocab_size, {"train": 400_000, "validation": 1024}
    tokens = torch.randint(
        0, vocab_size, (sum(counts.values()),), generator=torch.Generator().manual_seed(0)
    )
    parts = dict(zip(counts, torch.split(tokens.to(torch.uint16), [*counts.values()]), strict=True))
    sizes = {f"{split}_{unit}": n for split, n in counts.items() for unit in ("tokens", "bytes")}
    manifest = Manifest(
        kind="dataset",
        code_version=__version__,
        config={"name": "random"},
        tokenizer_fingerprint="0" * 24,
        counts={**sizes, "vocab_size": vocab_size},
        blobs=(
            *(
                store.put(f"{split}-00000.bin", tensor_bytes(part), len(part))
                for split, part in parts.items()
            ),
            store.put("tokenizer.json", b"{}"),
            store.put("validation.txt", b"a" * counts["validation"]),
        ),
    )
    store.save(manifest)
    return manifest


def train_values(measured: Measured) -> dict[str, object]:
    """`TrainConfig` of that shape, but for name, dataset and steps."""
    fields = set(MicroLMConfig.model_fields) - {"vocab_size", "rope_scaling"}
    return {
        "model": measured.shape.model_dump(include=fields),
        "batch_tokens": measured.batch_tokens,
        "seq_len": measured.seq_len,
        "validate_every": 1_000_000,
        "checkpoint_every": 1_000_000,
        "skip_spikes": False,
    }
