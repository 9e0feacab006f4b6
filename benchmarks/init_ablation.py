"""What the beginning of a run and a few choices of its model are worth, in bits per byte.

    mulm data build examples/sample.yaml
    OMP_NUM_THREADS=1 python -m benchmarks.init_ablation --seeds 2 --only "zero;scaled"

Trains one small shape once per variant and seed on the sample, with the loop's own parts, and
prints the held-out bits per byte. Results are in docs/log.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from mulm.data.loader import TokenLoader
from mulm.data.tokenizer import Tokenizer
from mulm.eval.compression import sum_nats, to_bits_per_byte
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.model.attention import document_ids
from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.train.loss import sum_cross_entropy
from mulm.train.optim import Optimizer
from mulm.train.schedule import lr_scale
from mulm.train.settled import SettledOptimizer, SettledSchedule

SEQ_LEN, ROWS = 128, 8


@dataclass(frozen=True)
class Variant:
    """One change against the way that training goes by default."""

    output_scale: float = 0.0
    """Of the last matrix of each branch at the start, in units of 1 / sqrt(its inputs)."""
    has_depth_scale: bool = False
    """Divide that by sqrt(2 n_layers), as GPT-2."""
    shape: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    has_documents: bool = False
    dtype: torch.dtype = torch.bfloat16


VARIANTS = {
    "zero": Variant(),
    "scaled": Variant(output_scale=1.0, has_depth_scale=True),
    "unscaled": Variant(output_scale=1.0),
    "zero, no QK-norm": Variant(shape={"qk_norm": False}),
    "scaled, no QK-norm": Variant(1.0, True, shape={"qk_norm": False}),
    "documents apart": Variant(has_documents=True),
    "fp32": Variant(dtype=torch.float32),
    "bf16 states": Variant(optimizer={"state_dtype": "bf16"}),
    "int8 states": Variant(optimizer={"state_dtype": "int8"}),
    "adamw": Variant(optimizer={"kind": "adamw"}),
    "adamw, bf16 states": Variant(optimizer={"kind": "adamw", "state_dtype": "bf16"}),
    "adamw, int8 states": Variant(optimizer={"kind": "adamw", "state_dtype": "int8"}),
}


def main() -> None:
    """Train all variants and print a table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", help="names of variants, separated by semicolons")
    options = parser.parse_args()
    torch.set_num_threads(1)
    home = Home.from_env()
    store = Store(home.store)
    with Ledger(home.ledger) as ledger:
        manifest_id = ledger.resolve("dataset", parse_ref(options.dataset)).manifest_id
    dataset = store.load(manifest_id)
    names = options.only.split(";") if options.only else list(VARIANTS)
    print("| variant | bits/byte by seed | mean | CPU s |\n|---|---|---|---|", flush=True)
    for name in names:
        started_s = time.process_time()
        found = [
            train(VARIANTS[name], store, dataset, options.steps, seed)
            for seed in range(options.seeds)
        ]
        seeds = ", ".join(f"{bits:.4f}" for bits in found)
        cpu_s = time.process_time() - started_s
        print(f"| {name} | {seeds} | {statistics.mean(found):.4f} | {cpu_s:.0f} |", flush=True)


def train(variant: Variant, store: Store, dataset: Manifest, steps: int, seed: int) -> float:
    """Held-out bits per byte after `steps`, documents joined."""
    model = make_model(variant, int(dataset.counts["vocab_size"]), seed)
    values = {"matrix_lr": 0.02, "embedding_lr": 0.02, "weight_decay": 0.0} | variant.optimizer
    if values.get("kind") == "adamw":
        values["embedding_lr"] = 0.004
    optimizer = Optimizer(model, SettledOptimizer.model_validate(values), variant.dtype)
    loader = TokenLoader(store, dataset, seq_len=SEQ_LEN, seed=seed)
    separator_id = Tokenizer.from_bytes(store.read(dataset.blob("tokenizer.json"))).end_of_text_id
    for step in range(steps):
        x_BT, y_BT = loader.batch(step, ROWS)
        model.zero_grad(set_to_none=True)
        documents_BT = document_ids(x_BT, separator_id) if variant.has_documents else None
        hidden_ND = model(x_BT, Compute(variant.dtype), documents_BT).flatten(0, 1)
        loss = sum_cross_entropy(hidden_ND, model.output_weight_VD, y_BT.flatten(), variant.dtype)
        torch.autograd.backward(loss / y_BT.numel())
        optimizer.step(lr_scale(step, steps, SettledSchedule(warmup=0.02, decay=0.6)))
    batches = list(head(TokenLoader(store, dataset, "validation", seq_len=SEQ_LEN)))
    return to_bits_per_byte(sum_nats(model, batches, variant.dtype), dataset)


def make_model(variant: Variant, vocab_size: int, seed: int) -> MicroLM:
    """Four layers of width 128, begun as the variant says."""
    shape = MicroLMConfig(
        vocab_size=vocab_size, d_model=128, n_layers=4, n_heads=4, n_kv_heads=2, d_head=32,
        d_ff=384, max_seq_len=SEQ_LEN,
    )  # fmt: skip
    shape = shape.model_copy(update=variant.shape)
    generator = torch.Generator().manual_seed(seed)
    model = MicroLM(shape).init_weights(generator)
    depth_scale = (2 * shape.n_layers) ** -0.5 if variant.has_depth_scale else 1.0
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            std = variant.output_scale * depth_scale * parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, 0.0, std, generator=generator)
    return model


def head(loader: TokenLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All held-out batches; its size stands in the dataset's counts."""
    yield from loader.iter_validation(16)


if __name__ == "__main__":
    main()
