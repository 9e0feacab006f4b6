"""What a batch of the loader costs, in CPU microseconds, beside one matrix product of its size.

    OMP_NUM_THREADS=1 python -m benchmarks.data_loader

Batches of B rows of T tokens come in random order from a version of many shards: plain, with loss
masks, packed, and mixed from three sources. All ways run in turn in one process and are judged by
the median. The product stands for scale: one of the hundreds that a training step has.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mulm.data.loader import TokenLoader
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

D_MODEL = 512
N_BATCHES = 20


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways = make_ways(Store(Path(folder)), options.rows, options.seq_len, options.shards)
        costs_us: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                costs_us[name].append(cost_us(way))
    for name, costs in costs_us.items():
        print(f"{name:12} {statistics.median(costs):10.0f} us a batch")


def make_ways(
    store: Store, n_rows: int, seq_len: int, n_shards: int
) -> dict[str, Callable[[int], object]]:
    """What is measured: each takes a step."""
    shards = [make_shard(store, seq_len, number) for number in range(n_shards)]
    masks = [make_mask(store, shard) for shard in shards]
    groups = [
        BlobEntry(
            name=f"train-{'abc'[k % 3]}-{k:05}.bin", sha256=shard.sha256,
            size_bytes=shard.size_bytes, rows=shard.rows,
        )
        for k, shard in enumerate(shards)
    ]  # fmt: skip
    pack = {"mode": "best_fit", "seq_len": seq_len}
    versions = {
        "plain": version(shards),
        "masked": version(shards + masks),
        "packed": version(shards, pack=pack),
        "mixed": version(groups, mixture={"a": 0.5, "b": 0.3, "c": 0.2}),
    }
    loaders = {name: TokenLoader(store, made, seq_len=seq_len) for name, made in versions.items()}
    ways: dict[str, Callable[[int], object]] = {
        name: lambda step, loader=loader: loader.batch(step, n_rows)  # type: ignore[misc]
        for name, loader in loaders.items()
    }
    x_BD, w_DD = torch.randn(n_rows * seq_len, D_MODEL), torch.randn(D_MODEL, D_MODEL)
    return ways | {f"{D_MODEL} product": lambda _step: x_BD @ w_DD}


def make_shard(store: Store, seq_len: int, number: int) -> BlobEntry:
    """200 rows of random tokens."""
    generator = torch.Generator().manual_seed(number)
    n_tokens = 200 * (seq_len + 1)
    content = bytes(torch.randint(0, 256, (2 * n_tokens,), generator=generator).tolist())
    return store.put(f"train-{number:05}.bin", content, rows=n_tokens)


def make_mask(store: Store, shard: BlobEntry) -> BlobEntry:
    """Every other token."""
    return store.put(shard.name.removesuffix("bin") + "mask", b"\x55" * ((shard.rows + 7) // 8))


def version(blobs: list[BlobEntry], **config: Any) -> Manifest:
    """A dataset of these files."""
    return Manifest(kind="dataset", code_version="0", config=config, blobs=tuple(blobs))


def cost_us(way: Callable[[int], object]) -> float:
    """CPU time of this process for one call."""
    start_s = time.process_time()
    for step in range(N_BATCHES):
        way(step)
    return (time.process_time() - start_s) / N_BATCHES * 1e6


if __name__ == "__main__":
    main()
