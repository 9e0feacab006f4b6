"""What HTTP and Serve leave of the engine's speed: throughput, first tokens, gaps, idle streams.

    python -m benchmarks.serve_http 20M                  the application in one process
    python -m benchmarks.serve_http 20M --way serve      through Ray Serve, on a cluster of its own

The clients (`benchmarks.http_load`) are one process; it shares the cores with what it measures, and
its CPU time is told. The engine's own numbers come from the same prompts in the same run. Each part
prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serve import begin, prompts
from benchmarks.serve_cluster import cluster_with
from benchmarks.serve_shapes import SHAPES, weights_folder
from benchmarks.serve_table import CELLS, Results
from benchmarks.serving_app import NAME

LOAD = Path(__file__).with_name("http_load.py")
CLIENTS, N_NEW = 32, 128
IDLE_STREAMS, IDLE_S = 200, 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the service listens, and the processes that it is made of."""

    port: int
    key: str
    name: str
    processes: list[psutil.Process]

    def cpu_s(self) -> float:
        """CPU time of all of it."""
        times = [process.cpu_times() for process in self.processes if process.is_running()]
        return sum(part.user + part.system for part in times)


def main() -> None:
    """Ask what is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--way", choices=WAYS, default="app")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="Where exports are kept; else in passing.")
    options = parser.parse_args()
    options.python = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = weights_folder(options.weights or Path(temporary), options.shape)
        engine = own_speed(folder, options)
        tell("engine", engine)
        with WAYS[options.way](folder, options) as target:
            for name in options.only:
                tell(f"{options.way}: {name}", PARTS[name](target, engine, options))
        if "idle" in options.only or options.way == "app":
            with in_one_process(["--idle", "--slots", str(IDLE_STREAMS)]) as target:
                tell("app: idle", idle(target))


def tell(name: str, values: dict[str, Any]) -> None:
    """A line."""
    print(json.dumps({name: values}), flush=True)


def own_speed(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The engine alone: the burst, one prompt of 1,024 tokens, and the burst's first tokens."""
    contender = begin("mulm", folder, options, Results(options.shape))
    assert contender is not None
    contender.ask(prompts(CELLS["decode-32"], 0), 4)
    bursts = [contender.ask(prompts(CELLS["decode-32"], n), N_NEW) for n in range(1, 4)]
    singles = [contender.ask(prompts(CELLS["prefill-1024"], n), 1) for n in range(1, 6)]
    contender.end()
    return {
        "tokens/s": CLIENTS * N_NEW / statistics.median(b["seconds"] for b in bursts),
        "all first tokens s": statistics.median(b["first_s"] for b in bursts),
        "prefill 1024 s": statistics.median(s["seconds"] for s in singles),
    }


def throughput(target: Target, engine: dict[str, float], options: Any) -> dict[str, float]:
    """32 clients at once, as often as asked; the median round."""
    speeds, firsts, loads, services = [], [], [], []
    for number in range(options.rounds + 1):
        asked = prompts(CELLS["decode-32"], -100 - number)
        before_s = target.cpu_s()
        told = load(target, [(0.0, body(target, ids, N_NEW)) for ids in asked])
        require_whole(told)
        seen = told["seen"]
        n_tokens = sum(one["n_tokens"] for one in seen)
        end_s = max(one["event_s"][-1] for one in seen)
        begin_s = min(one["sent_s"] for one in seen)
        speeds.append(n_tokens / (end_s - begin_s))
        firsts.append(statistics.median(one["event_s"][0] - one["sent_s"] for one in seen))
        loads.append(told["cpu_s"])
        services.append(target.cpu_s() - before_s)
    speed, first_s = statistics.median(speeds[1:]), statistics.median(firsts[1:])
    return {
        "tokens/s": speed,
        "of the engine": speed / engine["tokens/s"],
        "first token p50 s": first_s,
        "of the engine's": first_s / engine["all first tokens s"],
        "clients' CPU s": statistics.median(loads[1:]),
        "service's CPU s": statistics.median(services[1:]),
    }


def first_token(target: Target, engine: dict[str, float], _options: Any) -> dict[str, float]:
    """One client after the other, prompts of 1,024 tokens."""
    waits = []
    for number in range(8):
        (ids,) = prompts(CELLS["prefill-1024"], -100 - number)
        told = load(target, [(0.0, body(target, ids, 2))])
        require_whole(told)
        waits.append(told["seen"][0]["event_s"][0] - told["seen"][0]["sent_s"])
    middle_s = statistics.median(waits[1:])
    return {"p50 s": middle_s, "of the prefill": middle_s / engine["prefill 1024 s"]}


def gaps(target: Target, _engine: dict[str, float], _options: Any) -> dict[str, float]:
    """8 streams, alone and while prompts of 4,000 tokens come in one after the other."""
    found: dict[str, float] = {}
    for name, n_long in (("alone", 0), ("with long prompts", 4)):
        asked = prompts(CELLS["decode-8"], -200 - n_long)
        long = [prompts(CELLS["context-4096"], -200 - n)[0][:4000] for n in range(n_long)]
        orders = [(0.0, body(target, ids, 600)) for ids in asked]
        orders += [(0.5 + 0.4 * n, body(target, ids, 2)) for n, ids in enumerate(long)]
        told = load(target, orders)
        require_whole(told)
        between = sorted(
            later - earlier
            for one in told["seen"][: len(asked)]
            for earlier, later in zip(one["event_s"], one["event_s"][1:], strict=False)
        )
        middle, late = statistics.median(between), between[int(0.99 * len(between))]
        found |= {f"{name}: median ms": 1e3 * middle, f"{name}: p99 ms": 1e3 * late}
        found[f"{name}: p99 / median"] = late / middle
    return found


def idle(target: Target) -> dict[str, float]:
    """CPU that the service takes for streams in which nothing happens, as a share of a core."""
    orders = [(0.0, body(target, [64 + n % 200, 65], 100)) for n in range(IDLE_STREAMS)]
    process = start_load(target, orders, timeout_s=IDLE_S + 6.0)
    time.sleep(4.0)
    before_s, begun_s = target.cpu_s(), time.perf_counter()
    time.sleep(IDLE_S)
    share = (target.cpu_s() - before_s) / (time.perf_counter() - begun_s)
    told = json.loads(process.communicate()[0])
    n_open = sum(one["status"] == 200 and not one["is_whole"] for one in told["seen"])
    return {"streams": n_open, "of a core": share}


def body(target: Target, ids: list[int], n_new: int) -> dict[str, Any]:
    """A streamed completion of token ids."""
    return {
        "model": target.name, "prompt": ids, "max_tokens": n_new, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def start_load(
    target: Target, orders: list[tuple[float, dict[str, Any]]], timeout_s: float = 120.0
) -> subprocess.Popen[str]:
    """Let the clients begin."""
    plan = {
        "host": "127.0.0.1", "port": target.port, "key": target.key, "path": "/v1/completions",
        "timeout_s": timeout_s, "requests": [{"at_s": at, "body": what} for at, what in orders],
    }  # fmt: skip
    process = subprocess.Popen(  # noqa: S603 - of this folder
        [sys.executable, str(LOAD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan))
    process.stdin.close()
    process.stdin = None
    return process


def load(target: Target, orders: list[tuple[float, dict[str, Any]]]) -> dict[str, Any]:
    """What the clients saw."""
    told: dict[str, Any] = json.loads(start_load(target, orders).communicate()[0])
    return told


def require_whole(told: dict[str, Any]) -> None:
    """End where an answer is missing: a fast service that drops requests is none."""
    broken = [one for one in told["seen"] if not one["is_whole"]]
    if broken:
        sys.exit(f"{len(broken)} answers are not whole: statuses {[b['status'] for b in broken]}")


@contextmanager
def in_one_process(arguments: list[str]) -> Iterator[Target]:
    """The application and the engine in one process, without Ray."""
    command = [sys.executable, "-m", "benchmarks.serving_app", *arguments]
    process = subprocess.Popen(  # noqa: S603 - of this folder
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Target(told["port"], told["key"], NAME, [psutil.Process(process.pid)])
    finally:
        process.kill()
        process.wait()


@contextmanager
def through_app(folder: Path, options: argparse.Namespace) -> Iterator[Target]:
    """Without Ray."""
    slots = ["--slots", str(CLIENTS), "--threads", str(options.threads)]
    with in_one_process([str(folder), *slots]) as target:
        yield target


@contextmanager
def through_serve(folder: Path, options: argparse.Namespace) -> Iterator[Target]:
    """A cluster of its own, with one engine replica."""
    with cluster_with(folder, n_slots=CLIENTS, n_threads=options.threads, name=NAME) as found:
        yield Target(*found[:2], NAME, found[2])


PARTS: dict[str, Callable[[Target, dict[str, float], Any], dict[str, float]]] = {
    "throughput": throughput, "first token": first_token, "gaps": gaps,
}  # fmt: skip
WAYS = {"app": through_app, "serve": through_serve}

if __name__ == "__main__":
    main()
