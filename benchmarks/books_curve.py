"""Held-out bits per byte against CPU-seconds: our defaults beside AdamW on the transformers Llama.

    OMP_NUM_THREADS=1 python -m benchmarks.books_curve FOLDER --cpu-s 600

Same books, tokenizer, batches and held-out sections, models of equal size, one thread each, equal
CPU-seconds of training (of the process, without validation). The peer is a plain loop with
AdamW (0.9, 0.95, weight decay 0.1), warm-up, a cosine to a tenth, clipping at 1, the faster of
fp32 and bf16 autocast, and the best of several learning rates, each tried for a quarter of the
budget. Results are in docs/log.md.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulm.config import load_config, parse_config
from mulm.data.build import build
from mulm.data.loader import TokenLoader
from mulm.data.recipe import Recipe
from mulm.eval.compression import to_bits_per_byte
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.presets import preset
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train

VOCAB_SIZE, SEQ_LEN, BATCH_TOKENS = 4096, 256, 2048
N_ROWS = BATCH_TOKENS // SEQ_LEN
N_POINTS, N_TIMED, WARMUP_SHARE = 6, 20, 0.05
Batch = tuple[Tensor, Tensor]


@dataclass(slots=True)
class Clock:
    """CPU-seconds of this process while it trains, and the points of a curve."""

    cpu_s: float = 0.0
    points: list[tuple[float, int, float]] = field(default_factory=list)
    """CPU-seconds, tokens, bits per byte."""
    _since_s: float = field(default_factory=time.process_time)

    def stop(self) -> None:
        """Leave out what follows."""
        self.cpu_s += time.process_time() - self._since_s

    def go_on(self) -> None:
        """Count again."""
        self._since_s = time.process_time()

    def add(self, step: int, bits_per_byte: float) -> None:
        """A point of the curve."""
        self.points.append((self.cpu_s, step * BATCH_TOKENS, bits_per_byte))


def main() -> None:
    """Build the dataset in a folder of its own, train both, print both curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu-s", type=float, default=600.0)
    parser.add_argument("--peer-lrs", type=float, nargs="+", default=[0.002, 0.004, 0.008])
    parser.add_argument("--set", action="append", default=[], help="key.path=value, for ours")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = Store(folder / "store")
        dataset = build(recipe_of(options.folder), store).dataset
        print_curve("ours", learn(store, dataset, folder, options.cpu_s, options.set))
        peer = Peer(store, dataset)
        lr = tuned_lr(peer, options.peer_lrs, options.cpu_s / 4)
        print_curve(f"peer, learning rate {lr}", peer.learn(lr, options.cpu_s))


def recipe_of(folder: Path) -> Recipe:
    """All books, a few sections of each held out, so that judging takes seconds."""
    return parse_config(
        Recipe,
        {
            "name": "books",
            "sources": [{"type": "text", "path": str(folder)}],
            "split": {"by": "section", "validation_fraction": 0.003},
            "tokenizer": {"vocab_size": VOCAB_SIZE},
        },
    )


def learn(
    store: Store, dataset: Manifest, folder: Path, cpu_s: float, overrides: Iterable[str]
) -> Clock:
    """Our loop with our defaults, for so many steps as the budget holds."""
    n_timed, timed = N_TIMED, Clock()
    run_ours(store, dataset, folder / "timed", N_TIMED, n_timed, overrides, timed)
    steps, clock = int(cpu_s * n_timed / timed.cpu_s), Clock()
    every = max(1, steps // N_POINTS)
    run_ours(store, dataset, folder / "run", steps, every, overrides, clock)
    return clock


def run_ours(
    store: Store, dataset: Manifest, folder: Path, steps: int, every: int,
    overrides: Iterable[str], clock: Clock,
) -> None:  # fmt: skip
    """One run; the clock counts its steps."""

    def hear(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "progress" and data.get("stage") == "validate":
            clock.stop()
        if kind == "metric" and "validation_bits_per_byte" in data:
            clock.add(data["step"], data["validation_bits_per_byte"])
            clock.go_on()
        if kind == "log":
            print(f"# {data['text']}", flush=True)

    values = {
        "name": "ours", "dataset": "books", "steps": steps, "seq_len": SEQ_LEN,
        "batch_tokens": BATCH_TOKENS, "validate_every": every, "checkpoint_every": steps,
    }  # fmt: skip
    context = LocalContext(store, dataset, folder, torch.device("cpu"), hear, lambda: False)
    clock.go_on()
    train(load_config(TrainConfig, values, list(overrides)), context)


class Peer:
    """The transformers Llama in a plain loop."""

    def __init__(self, store: Store, dataset: Manifest) -> None:
        self.dataset = dataset
        self.loader = TokenLoader(store, dataset, seq_len=SEQ_LEN, seed=0)
        self.held_out = TokenLoader(store, dataset, "validation", seq_len=SEQ_LEN)
        costs = {has_autocast: self._cost_s(has_autocast) for has_autocast in (False, True)}
        self.has_autocast = min(costs, key=lambda way: costs[way])
        self.step_s = costs[self.has_autocast]
        print(f"# peer, CPU s a step: fp32 {costs[False]:.3f}, autocast {costs[True]:.3f}")

    def learn(self, lr: float, cpu_s: float, n_points: int = N_POINTS) -> Clock:
        """Fresh weights, trained for so many steps as the budget holds."""
        steps, clock = int(cpu_s / self.step_s), Clock()
        model = fresh_llama(preset("demo", VOCAB_SIZE))
        every = max(1, steps // n_points)
        for step in self._steps(model, lr, steps, self.has_autocast):
            if step % every == 0 or step == steps:
                clock.stop()
                clock.add(step, self._judge(model))
                clock.go_on()
        return clock

    def _steps(self, model: nn.Module, lr: float, steps: int, has_autocast: bool) -> Iterator[int]:
        """Train; yields how many steps are done."""
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * cosine_scale(step, steps)
            x_BT, y_BT = self.loader.batch(step, N_ROWS)
            loss = nats(model, x_BT, y_BT, has_autocast) / y_BT.numel()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            yield step + 1

    def _cost_s(self, has_autocast: bool) -> float:
        model = fresh_llama(preset("demo", VOCAB_SIZE))
        for step in self._steps(model, 0.001, N_TIMED + 2, has_autocast):
            if step == 2:
                started_s = time.process_time()
        return (time.process_time() - started_s) / N_TIMED

    @torch.no_grad()
    def _judge(self, model: nn.Module) -> float:
        batches = self.held_out.iter_validation(N_ROWS)
        total = sum(float(nats(model, x, y, self.has_autocast)) for x, y in batches)
        return to_bits_per_byte(total, self.dataset)


def tuned_lr(peer: Peer, rates: Iterable[float], cpu_s: float) -> float:
    """The rate with the lowest loss after a short run of its own schedule."""
    found = {lr: peer.learn(lr, cpu_s, 1).points[-1][2] for lr in rates}
    for lr, bits in found.items():
        print(
            f"# peer, learning rate {lr}: {bits:.4f} bits/byte after {cpu_s:.0f} CPU s", flush=True
        )
    return min(found, key=lambda lr: found[lr])


def fresh_llama(shape: MicroLMConfig) -> nn.Module:
    """A Llama with the same widths; it has no gains on queries and keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.d_head, intermediate_size=shape.d_ff, tie_word_embeddings=True,
        max_position_embeddings=shape.max_seq_len, use_cache=False,
    )  # fmt: skip
    make: Callable[[LlamaConfig], nn.Module] = LlamaForCausalLM
    return make(config)


def nats(model: nn.Module, x_BT: Tensor, y_BT: Tensor, has_autocast: bool) -> Tensor:
    """The summed loss of a batch, as transformers computes it: in fp32, from all logits."""
    with torch.autocast("cpu", torch.bfloat16) if has_autocast else nullcontext():
        logits_BTV = model(x_BT).logits
    return functional.cross_entropy(
        logits_BTV.float().flatten(0, 1), y_BT.flatten(), reduction="sum"
    )


def cosine_scale(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to a tenth."""
    n_warmup = max(1, round(WARMUP_SHARE * steps))
    if step < n_warmup:
        return (step + 1) / n_warmup
    turn = (step - n_warmup) / max(1, steps - n_warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * turn))


def print_curve(name: str, clock: Clock) -> None:
    """A table."""
    print(f"\n{name}\n\n| CPU s | tokens | bits/byte |\n|---|---|---|")
    for cpu_s, tokens, bits in clock.points:
        print(f"| {cpu_s:.0f} | {tokens:,} | {bits:.4f} |", flush=True)


if __name__ == "__main__":
    main()
