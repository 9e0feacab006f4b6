"""The CPU kernels alone: a step's time by shape, format and batch, beside what the machine can do.

    python -m benchmarks.native 20M 135M --formats bf16 int8
    python -m benchmarks.native 135M --formats bf16 --contexts 0 4090 --batches 1 8 --kv plain int8
    python -m benchmarks.native 135M --formats bf16 --rank 16

Decoding is measured against the bandwidth of memory, prompts against the peak of products;
both are measured here, before and after, since they change with the machine's other guests. Each
number is the median of its repeats; with a rank each stream has a LoRA adapter of its own. Nothing
else may run meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from benchmarks.serve_engine import KERNELS
from benchmarks.serve_shapes import SHAPES, matrix_bytes, random_model
from mulm.model.adapter import MATRICES, Adapter, LowRank
from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.config import MicroLMConfig
from mulm.model.kv_cache import KvDtype
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.native.library import load_library
from mulm.native.model import NativeModel

FORMATS = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5625}
"""Bytes a weight as the kernels keep it; the multipliers of int4 are in it."""
KV: dict[str, KvDtype] = {"plain": None, "int8": "int8"}
"""Of keys and values: as the format has them, or bytes."""
BATCHES = (1, 8, 32)
CONTEXT = 192
PROMPT = 1024
SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What two measurements of the machine gave."""

    gb_per_s: float
    tflop_per_s: float

    @classmethod
    def measured(cls) -> Machine:
        """Read 1 GB, and multiply large matrices in the faster of bf16 and fp32."""
        large, small = torch.ones(1 << 28), torch.randn(256, 256)
        read_s = median_s(large.sum)
        dtype = min((torch.bfloat16, torch.float32), key=lambda it: squared_s(small.to(it)))
        product_s = squared_s(torch.randn(2048, 2048, dtype=dtype))
        return cls(4 * len(large) / read_s / 1e9, 2 * 2048**3 / product_s / 1e12)


def main() -> None:
    """Print a line for each cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--contexts", nargs="+", type=int, default=[CONTEXT])
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--kv", nargs="+", choices=KV, default=["plain"])
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"machine before: {Machine.measured()}")
    for shape, name, kv in product(options.shapes, options.formats, options.kv):
        title = f"{shape} {name}" + (f" kv {kv}" if KV[kv] else "")
        measure(SHAPES[shape], title, name, KV[kv], options)
    torch.set_num_threads(options.threads)
    print(f"machine after: {Machine.measured()}")


def measure(
    config: MicroLMConfig, title: str, name: str, kv: KvDtype, options: argparse.Namespace
) -> None:
    """All cells of one shape and formats."""
    torch.set_num_threads(options.threads)
    native, load_s = make_native(config, name, kv, options.threads)
    print(f"{title} packed in {load_s:.2f} s")
    torch.set_num_threads(1)  # OpenMP's waiting threads would take the cores from the kernels'
    if options.rank:
        title += f" rank {options.rank}"
        for number in range(max(options.batches)):
            native.set_adapter(number, random_adapter(config, options.rank))
    for context in options.contexts:
        for n in options.batches:
            step_s = median_s(decoding(native, n, context, bool(options.rank)))
            rate = matrix_bytes(config, FORMATS[name]) / step_s / 1e9
            speeds = f"{n / step_s:,.0f} tokens/s {rate:.1f} GB/s of weights"
            print(
                f"{title} context {context} batch {n}: {1e3 * step_s:.3f} ms {speeds}", flush=True
            )
    prompt_s = median_s(reading(native, PROMPT))
    n_inner = config.n_parameters - config.vocab_size * config.d_model
    peak = 2 * n_inner * PROMPT / prompt_s / 1e12
    speeds = f"{PROMPT / prompt_s:,.0f} tokens/s {peak:.3f} TFLOP/s in matrices"
    print(f"{title} prompt {PROMPT}: {1e3 * prompt_s:.1f} ms {speeds}", flush=True)


def squared_s(square: Tensor) -> float:
    """Seconds of a matrix times itself."""
    return median_s(lambda: square @ square)


def make_native(
    config: MicroLMConfig, name: str, kv: KvDtype, n_threads: int
) -> tuple[NativeModel, float]:
    """Random weights in a format, and the seconds of packing them."""
    model: MicroLM = random_model(config)
    if name == "fp32":
        model = model.float()
    elif name != "bf16":
        form = Quantization.model_validate({"linear": name, "embedding": name})
        model = QuantizedMicroLM.of(model, form)
    load_library(KERNELS)  # compiled before the clock starts
    begin_s = time.perf_counter()
    native = NativeModel(model, KERNELS, n_threads, kv)
    return native, time.perf_counter() - begin_s


def random_adapter(config: MicroLMConfig, rank: int) -> Adapter:
    """Beside all matrices of all blocks."""
    shapes = dict(zip(MATRICES, config.block_matrices, strict=True))
    return Adapter({
        (layer, name): LowRank(torch.randn(rank, n_in) / n_in, torch.randn(n_out, rank))
        for layer in range(config.n_layers)
        for name, (n_out, n_in) in shapes.items()
    })  # fmt: skip


def decoding(native: NativeModel, n: int, context: int, has_adapters: bool) -> Callable[[], object]:
    """One token more for each of `n` streams after `context` tokens, and its logits."""
    n_pages = context // PAGE_TOKENS + 1
    cache = native.make_cache(n * n_pages)
    batch = Batch.of(*(([7 + row], context, range(row * n_pages, (row + 1) * n_pages))
                       for row in range(n)))  # fmt: skip
    if has_adapters:
        batch = replace(batch, adapters_S=torch.arange(n, dtype=torch.int32))
    for row in range(n):
        if context:
            pages = range(row * n_pages, (row + 1) * n_pages)
            native.extend(Batch.of((range(context), 0, pages)), cache)
    return lambda: native.logits(native.extend(batch, cache))


def reading(native: NativeModel, n_tokens: int) -> Callable[[], object]:
    """A prompt, and the logits of its last token."""
    n_pages = -(-n_tokens // PAGE_TOKENS)
    cache = native.make_cache(n_pages)
    batch = Batch.of((range(n_tokens), 0, range(n_pages)))
    return lambda: native.logits(native.extend(batch, cache))


def median_s(act: Callable[[], object]) -> float:
    """Of at least five repeats and as many as fit into a second."""
    act()
    times: list[float] = []
    ends_s = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < ends_s:
        begin_s = time.perf_counter()
        act()
        times.append(time.perf_counter() - begin_s)
    return statistics.median(times)


if __name__ == "__main__":
    main()
