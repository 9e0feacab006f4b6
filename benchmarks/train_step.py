"""Where the time of a training step's two ways goes, and what the choices of computing cost.

    OMP_NUM_THREADS=1 python -m benchmarks.train_step --shape demo
    OMP_NUM_THREADS=1 python -m benchmarks.train_step --shape 20m --profile

All ways run in turn in one process and are judged by the median of their CPU seconds, since other
work may share the cores. `--profile` prints the share of matrix products instead.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.presets import demo_shape
from mulm.train.loss import sum_cross_entropy

SHAPES = {
    "demo": (demo_shape(4096), 8, 256),
    "20m": (
        MicroLMConfig(
            vocab_size=16384, d_model=384, n_layers=8, n_heads=6, n_kv_heads=3, d_head=64,
            d_ff=1024, max_seq_len=512,
        ), 4, 512,
    ),
}  # fmt: skip
WAYS = {
    "as by default": Compute(torch.bfloat16),
    "attention by torch": Compute(torch.bfloat16, "sdpa"),
    "blocks computed again": Compute(torch.bfloat16, is_checkpointed=True),
    "fp32": Compute(torch.float32),
    "fp32, attention by torch": Compute(torch.float32, "sdpa"),
}
PRODUCTS = ("aten::mm", "aten::bmm", "aten::baddbmm", "aten::addmm")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps: dict[str, Callable[[], None]] = {
        name: make_step(*SHAPES[options.shape], compute) for name, compute in WAYS.items()
    }
    steps["autocast, attention by torch"] = make_step(
        *SHAPES[options.shape], Compute(attention="sdpa"), is_autocast=True
    )
    if options.profile:
        for name in ("as by default", "attention by torch", "autocast, attention by torch"):
            print_shares(name, steps[name])
        return
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats + 1):
        for name, step in steps.items():
            started_s = time.process_time()
            step()
            seconds[name].append(time.process_time() - started_s)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print("| way | CPU s | of the default |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.3f} | {median / medians['as by default']:.2f} |")


def make_step(
    shape: MicroLMConfig, rows: int, seq_len: int, compute: Compute, is_autocast: bool = False
) -> Callable[[], None]:
    """Forward and backward of one micro-batch of random tokens."""
    generator = torch.Generator().manual_seed(0)
    model = MicroLM(shape).init_weights(generator)
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            torch.nn.init.normal_(parameter, 0.0, parameter.shape[1] ** -0.5, generator=generator)
    ids_BT = torch.randint(0, shape.vocab_size, (rows, seq_len + 1), generator=generator)
    dtype = compute.dtype or torch.bfloat16
    if is_autocast:
        as_before(model)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype, enabled=is_autocast):
            hidden_BTD = model(ids_BT[:, :-1], compute)
        targets_N, weight_VD = ids_BT[:, 1:].flatten(), model.output_weight_VD
        loss = sum_cross_entropy(hidden_BTD.flatten(0, 1), weight_VD, targets_N, dtype)
        torch.autograd.backward(loss)

    return step


def as_before(model: MicroLM) -> None:
    """Matrices that leave casting to autocast."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            setattr(module, "forward", partial(_product, module))  # noqa: B010 - mypy


def _product(module: torch.nn.Linear, x: Tensor) -> Tensor:
    return functional.linear(x, module.weight)


def print_shares(name: str, step: Callable[[], None]) -> None:
    """Parts of the CPU time, the largest first."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            step()
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    products = sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS)
    print(f"{name}: matrix products {products / total:.0%} of {total / 3e6:.3f} CPU s")
    for event in sorted(events, key=lambda e: -e.self_cpu_time_total)[:12]:
        print(f"  {event.key[:48]:<48} {event.self_cpu_time_total / total:6.1%}")


if __name__ == "__main__":
    main()
