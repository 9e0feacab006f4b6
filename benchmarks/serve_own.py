"""What only our own engine is asked: cold starts, waiting lines, shared prefixes, sampling.

    python -m benchmarks.serve_own 135M --only cold prefix
    python -m benchmarks.serve_own 20M

Prints one JSON object a question.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.serve_engine import KERNELS, make_engine
from benchmarks.serve_shapes import SHAPES, weights_folder
from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams

SCRIPT = Path(__file__).with_name("serve_contenders.py")
ROUNDS = 5
GREEDY = SamplingParams(max_tokens=1, temperature=0)
SAMPLED = SamplingParams(max_tokens=64, temperature=0.8, top_p=0.95, seed=1)
PENALISED = SamplingParams(max_tokens=64, temperature=0.8, repetition_penalty=1.1, seed=1)


def main() -> None:
    """Ask what is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="Where exports are kept; else in passing.")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = weights_folder(options.weights or Path(temporary), options.shape)
        for name in options.only:
            print(json.dumps({"shape": options.shape, name: QUESTIONS[name](folder)}), flush=True)
            torch.set_num_threads(options.threads)


def cold(folder: Path) -> dict[str, float]:
    """Seconds from the start of a process to its first token."""
    with tempfile.TemporaryDirectory() as empty:
        return {
            "kernels compiled before": _first_answer_s(folder, "mulm", str(KERNELS)),
            "kernels not compiled": _first_answer_s(folder, "mulm", empty),
            "plain PyTorch": _first_answer_s(folder, "mulm plain", empty),
        }


def waiting(folder: Path) -> dict[str, dict[str, float]]:
    """Microseconds of a step, of taking and of cancelling a request, by how many wait."""
    engine = make_engine(folder, n_slots=8, max_waiting=20_000, n_pages=4096)
    found = {}
    for n_waiting in (0, 100, 1000, 10_000):
        found[str(n_waiting)] = _crowded(engine, n_waiting)
    return found


def prefix(folder: Path) -> dict[str, float]:
    """Milliseconds to the first token of two prompts that share their first 1,000 tokens."""
    engine = make_engine(folder, n_slots=4, n_pages=4096)
    first, second = [], []
    for seed in range(ROUNDS):
        shared = _ids(1000, 2 * seed)
        first.append(_first_token_s(engine, (*shared, *_ids(24, 1001))))
        second.append(_first_token_s(engine, (*shared, *_ids(24, 1002))))
    one, two = statistics.median(first), statistics.median(second)
    return {"first ms": 1e3 * one, "second ms": 1e3 * two, "share": two / one}


def sampling(folder: Path) -> dict[str, float]:
    """Milliseconds of a step of 32 streams, by how their tokens are chosen."""
    engine = make_engine(folder, n_slots=32)
    ways = {
        "greedy": SamplingParams(max_tokens=64, temperature=0),
        "temperature": SamplingParams(max_tokens=64, temperature=0.8, seed=1),
        "top_p": SAMPLED,
        "repetition penalty": PENALISED,
        "logprobs": SamplingParams(max_tokens=64, temperature=0, logprobs=5),
    }
    return {name: 1e3 * _step_s(engine, params) for name, params in ways.items()}


def stall(folder: Path) -> dict[str, float]:
    """Milliseconds between tokens of 8 streams, alone and while prompts of 4,000 tokens come."""
    engine = make_engine(folder, n_slots=16)
    params = SamplingParams(max_tokens=200, temperature=0)
    found = {}
    for name, n_long in (("alone", 0), ("long prompts", 3)):
        for row in range(8):
            engine.add(GenerateRequest(f"stream-{row}", _ids(32, row), params))
        while any(s.n_unread > 1 for s in engine._scheduler):
            engine.step()
        for row in range(n_long):
            engine.add(GenerateRequest(f"long-{row}", _ids(4000, 100 + row), GREEDY))
        gaps = _gaps(engine)
        found[f"{name}: median"] = 1e3 * statistics.median(gaps)
        found[f"{name}: p99"] = 1e3 * sorted(gaps)[int(0.99 * len(gaps))]
    return found


def _gaps(engine: Engine) -> list[float]:
    gaps, newest_s = [], time.perf_counter()
    while engine.n_unfinished:
        chunks = engine.step()
        now_s = time.perf_counter()
        if any(chunk.request_id.startswith("stream") for chunk in chunks):
            gaps.append(now_s - newest_s)
            newest_s = now_s
    return gaps


def _crowded(engine: Engine, n_waiting: int) -> dict[str, float]:
    params = SamplingParams(max_tokens=4000, temperature=0)
    for row in range(8):
        engine.add(GenerateRequest(f"run-{row}", _ids(16, row), params))
    for _ in range(3):
        engine.step()
    for number in range(n_waiting):
        engine.add(GenerateRequest(f"wait-{number}", _ids(16, number), params))
    steps = [_seconds(engine.step) for _ in range(60)]
    more = [GenerateRequest(f"more-{n}", _ids(16, n), params) for n in range(60)]
    adds = [_seconds(lambda request=request: engine.add(request)) for request in more]  # type: ignore[misc]
    cancels = [_seconds(lambda r=r: engine.cancel(r.request_id)) for r in reversed(more)]  # type: ignore[misc]
    for number in range(n_waiting):
        engine.cancel(f"wait-{number}")
    for row in range(8):
        engine.cancel(f"run-{row}")
    engine.check_integrity()
    parts = {"step": steps, "add": adds, "cancel": cancels}
    return {name: 1e6 * statistics.median(values) for name, values in parts.items()}


def _first_answer_s(folder: Path, name: str, kernels: str) -> float:
    started_s = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - this very Python
        [sys.executable, str(SCRIPT), name, str(folder)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {"MULM_BENCH_KERNELS": kernels},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    seconds = time.perf_counter() - started_s
    process.communicate()
    return seconds


def _first_token_s(engine: Engine, ids: tuple[int, ...]) -> float:
    return _seconds(lambda: engine.generate([GenerateRequest("a", ids, GREEDY)]))


def _step_s(engine: Engine, params: SamplingParams) -> float:
    """The median, of steps that only decode."""
    for row in range(32):
        engine.add(GenerateRequest(str(row), _ids(32, row), params))
    while any(s.n_unread > 1 for s in engine._scheduler):
        engine.step()
    steps = []
    while engine.n_unfinished:
        steps.append(_seconds(engine.step))
    return statistics.median(steps)


def _seconds(act: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def _ids(n_tokens: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(64, 320, (n_tokens,), generator=generator).tolist())


QUESTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cold": cold, "waiting": waiting, "prefix": prefix, "sampling": sampling, "stall": stall,
}  # fmt: skip

if __name__ == "__main__":
    main()
