"""What Ray Train costs: the same run in this process alone, on one worker, and on two.

    python -m benchmarks.train_ray S

Starts an application of its own in a temporary home, on free ports. Each run is `steps` steps of
random tokens, and is judged by the median of its reports after the first. One worker of a machine
has all its cores, two have half of them each: two are compared with a run alone on half the cores.
Runs alone are taken before and after those on Ray, since a machine's speed drifts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.train_shapes import SHAPES, random_dataset, train_values
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store

LOG_EVERY = 2


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="adamw")
    parser.add_argument("--batches", type=int, default=2, help="Of the shape's rows, in a step.")
    options = parser.parse_args()
    n_cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder)).create()
        config = prepare(home, options)
        alone = {n: [speed(home, config, f"a{n}", threads=n)] for n in (n_cores, n_cores // 2)}
        mulm(home, "up")
        try:
            on_ray = {n: speed(home, config, f"r{n}", workers=n) for n in (1, 2)}
        finally:
            mulm(home, "down")
        for n in alone:
            alone[n].append(speed(home, config, f"b{n}", threads=n))
    whole, half = (statistics.mean(alone[n]) for n in (n_cores, n_cores // 2))
    print("| run | tok/s | of the run alone |\n|---|---|---|")
    print(
        f"| alone, {n_cores} threads (before, after: {told(alone[n_cores])}) | {whole:,.0f} | 1 |"
    )
    print(f"| Ray Train, one worker | {on_ray[1]:,.0f} | {on_ray[1] / whole:.3f} |")
    print(f"| alone, {n_cores // 2} threads ({told(alone[n_cores // 2])}) | {half:,.0f} | 1 |")
    print(f"| Ray Train, two workers | {on_ray[2]:,.0f} | {on_ray[2] / half:.3f} |")


def told(speeds: list[float]) -> str:
    """Two speeds in a line."""
    return ", ".join(f"{speed:,.0f}" for speed in speeds)


def prepare(home: Home, options: argparse.Namespace) -> Path:
    """A dataset named `random`, and the config of all runs."""
    measured = SHAPES[options.shape]
    with Ledger(home.ledger) as facts:
        dataset = random_dataset(Store(home.store), measured)
        facts.publish("dataset", "random", dataset.id)
    values = train_values(measured) | {
        "name": "a", "dataset": "random", "steps": options.steps, "log_every": LOG_EVERY,
        "optimizer": {"kind": options.optimizer}, "precision": "bf16", "samples": None,
        "batch_tokens": options.batches * measured.batch_tokens, "device": "cpu", "compile": True,
    }  # fmt: skip
    path = home.root / "config.json"
    path.write_text(json.dumps(values))
    return path


def speed(home: Home, config: Path, name: str, *, workers: int = 1, threads: int = 0) -> float:
    """Tokens a second of one run, by its reports after the first."""
    changes = [f"name={name}", f"workers={workers}"]
    mulm(home, "train", str(config), *[w for c in changes for w in ("--set", c)], threads=threads)
    with Ledger(home.ledger) as facts:
        (run,) = [run for run in facts.runs() if run.config["name"] == name]
        events = facts.events(run.id, kinds=("metric",))
    speeds = [e.data["tokens_per_s"] for e in events if "tokens_per_s" in e.data][1:]
    return float(statistics.median(speeds))


def mulm(home: Home, *words: str, threads: int = 0) -> None:
    """Run the command in a process of its own."""
    env: dict[str, Any] = os.environ | {
        "MULM_HOME": str(home.root), "MULM_HTTP_PORT": "0", "MULM_DASHBOARD_PORT": "0",
    }  # fmt: skip
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    script = "from jobs.cli import main; main()"
    command = [sys.executable, "-c", script, *words]
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)  # noqa: S603


if __name__ == "__main__":
    main()
