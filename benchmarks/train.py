"""Speed and memory of training beside peers: same shape, data, precision and optimizer, one run.

    python -m benchmarks.train S --nanogpt CHECKOUT
    python -m benchmarks.train T --nanogpt CHECKOUT

Every contender is a process of its own (`benchmarks.train_contenders`); they take their steps in
turn, so that a change of the machine's speed meets all alike. The peak of matrix products is
measured between them. Peers that are not installed are named and left out: `pip install
transformers accelerate litgpt` beside the pinned torch; nanoGPT is a checkout.
docs/training-speed.md has the tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_contenders import CONTENDERS
from benchmarks.train_shapes import SHAPES, Measured
from mulm.train.flops import flops_per_token, measured_peak_flops

WARM_STEPS = 2


@dataclass(slots=True)
class Contender:
    """A running process and what it has told."""

    name: str
    process: subprocess.Popen[str]
    first_step_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def read(self) -> Any:
        """Its next answer; None where it has ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def step(self) -> float:
        """Let it take one step."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.read()["seconds"])

    def end(self) -> None:
        """Let it end, and learn what memory it took."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.peak_bytes = int(self.read()["peak_bytes"])
        self.process.wait()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nanogpt", type=Path, help="A checkout of nanoGPT.")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    contenders = [c for name in options.only if (c := begin(name, options))]
    peaks = [peak_flops()]
    for contender in contenders:
        for _ in range(WARM_STEPS):
            contender.step()
    for n in range(options.rounds):
        for contender in contenders:
            contender.seconds.append(contender.step())
        if n == options.rounds // 2:
            peaks.append(peak_flops())
    for contender in contenders:
        contender.end()
    print_table(SHAPES[options.shape], contenders, max(peaks))


def begin(name: str, options: argparse.Namespace) -> Contender | None:
    """Start a contender and wait for its first step; None where it is not installed."""
    command = [sys.executable, "-m", "benchmarks.train_contenders", name, options.shape]
    command += ["--threads", str(options.threads)]
    command += ["--nanogpt", str(options.nanogpt)] if options.nanogpt else []
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
    process = subprocess.Popen(  # noqa: S603 - this very Python
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
    )
    contender = Contender(name, process)
    told = contender.read()
    if told is None:
        process.wait()
        errors.seek(0)
        print(f"{name}: left out: {errors.read().strip().splitlines()[-1]}", file=sys.stderr)
        return None
    contender.first_step_s = told["seconds"]
    print(f"{name}: first step after {contender.first_step_s:.1f} s", file=sys.stderr, flush=True)
    return contender


def peak_flops() -> float:
    """Of bf16 products, in operations a second."""
    return measured_peak_flops(torch.device("cpu"), torch.bfloat16)


def print_table(measured: Measured, contenders: list[Contender], peak: float) -> None:
    """Medians of all rounds, and ratios of medians to the first contender."""
    flops = flops_per_token(measured.shape, measured.seq_len)
    print(f"{measured.shape.n_parameters:,} parameters, {measured.batch_tokens} tokens a step")
    print(f"peak of bf16 products {peak / 1e12:.3f} TFLOP/s, {flops / 1e6:.1f} MFLOP a token")
    print("| | tok/s | of the first | of the peak | first step s | peak memory GB |")
    print("|---|---|---|---|---|---|")
    first = statistics.median(contenders[0].seconds)
    for contender in contenders:
        median = statistics.median(contender.seconds)
        speed = measured.batch_tokens / median
        print(
            f"| {contender.name} | {speed:,.0f} | {first / median:.2f} | {speed * flops / peak:.0%}"
            f" | {contender.first_step_s:.1f} | {contender.peak_bytes / 1e9:.2f} |"
        )


if __name__ == "__main__":
    main()
