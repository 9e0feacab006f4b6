"""Tiny Shakespeare by characters within nanoGPT's CPU budget: losses on the whole validation split.

    OMP_NUM_THREADS=1 python -m benchmarks.shakespeare input.txt --seeds 0 1 2

2,000 steps of 12 x 64 characters, 0.8 M parameters, by the product's own loop; what the config
below leaves out is the product's default. As in nanoGPT the first 90 % are learned, and a character
is predicted from its own window of 64 alone; but every character of the rest is judged once, not
a sample of it. Results are in docs/log.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any

import torch

from mulm import __version__
from mulm.config import load_config
from mulm.manifest import Manifest
from mulm.model.weights import tensor_bytes
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train

EARLY_STEP, STEPS = 550, 2000
CONFIG: dict[str, Any] = {
    "name": "shakespeare", "dataset": "shakespeare", "steps": STEPS, "seq_len": 64,
    "batch_tokens": 12 * 64, "validate_every": EARLY_STEP, "checkpoint_every": STEPS,
    "model": {
        "d_model": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_head": 32, "d_ff": 392,
        "max_seq_len": 64,
    },
}  # fmt: skip


@dataclass(slots=True)
class Watcher:
    """Hears a run's events: losses by step, and the CPU time of all but validation."""

    loss_by_step: dict[int, float] = field(default_factory=dict)
    cpu_s: float = 0.0
    _since_s: float = field(default_factory=time.process_time)

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """Stop the clock while the held-out text is read."""
        if kind == "progress" and data.get("stage") == "validate":
            self.cpu_s += time.process_time() - self._since_s
        if kind == "metric" and "validation_bits_per_byte" in data:
            self._since_s = time.process_time()
            self.loss_by_step[data["step"]] = data["validation_bits_per_byte"] * log(2)


def main() -> None:
    """Train with each seed and print a table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="key.path=value")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = options.file.read_text(encoding="ascii")
    print(f"| seed | parameters | step {EARLY_STEP} | step {STEPS} | CPU s |", flush=True)
    print("|---|---|---|---|---|")
    found = []
    for seed in options.seeds:
        parameters, watcher = learn(text, [*options.set, f"seed={seed}"])
        losses = watcher.loss_by_step[EARLY_STEP], watcher.loss_by_step[max(watcher.loss_by_step)]
        found.append(losses)
        print(_row(str(seed), f"{parameters:,}", losses, f"{watcher.cpu_s:.0f}"), flush=True)
    early, last = zip(*found, strict=True)
    print(_row("mean", "", (statistics.mean(early), statistics.mean(last)), ""))


def learn(text: str, overrides: Sequence[str]) -> tuple[int, Watcher]:
    """One run in a home of its own; its number of parameters, and what was heard of it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        dataset, watcher = make_dataset(store, text), Watcher()
        context = LocalContext(
            store, dataset, Path(folder) / "run", torch.device("cpu"), watcher.hear, lambda: False
        )
        result = train(load_config(TrainConfig, CONFIG, overrides), context)
    return result.parameters, watcher


def make_dataset(store: Store, text: str) -> Manifest:
    """A dataset version whose ids are the text's own characters, in their order."""
    characters = "".join(sorted(set(text)))
    id_by_character = {character: i for i, character in enumerate(characters)}
    ids = torch.tensor([id_by_character[c] for c in text], dtype=torch.int32).to(torch.uint16)
    n_train = int(len(text) * 0.9)
    n_validation = len(text) - n_train
    tokenizer_json = json.dumps({"characters": characters}).encode()
    manifest = Manifest(
        kind="dataset",
        code_version=__version__,
        config={"name": "shakespeare"},
        tokenizer_fingerprint=sha256(tokenizer_json).hexdigest()[:24],
        counts={
            "train_tokens": n_train, "validation_tokens": n_validation,
            # Before the first character stands nothing that it could be predicted from.
            "train_bytes": n_train, "validation_bytes": n_validation - 1,
            "vocab_size": len(characters),
        },
        blobs=(
            store.put("train-00000.bin", tensor_bytes(ids[:n_train]), n_train),
            store.put("validation-00000.bin", tensor_bytes(ids[n_train:]), n_validation),
            store.put("tokenizer.json", tokenizer_json),
        ),
    )  # fmt: skip
    store.save(manifest)
    return manifest


def _row(*cells: Any) -> str:
    flat = [f"{x:.4f}" for x in cells[2]]
    return f"| {cells[0]} | {cells[1]} | {' | '.join(flat)} | {cells[3]} |"


if __name__ == "__main__":
    main()
