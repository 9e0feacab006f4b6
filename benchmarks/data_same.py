"""Does a recipe give one version whoever builds it? Ids of several builds, side by side.

    python -m benchmarks.data_same examples/sample.yaml [--set KEY=VALUE ...]
    python -m benchmarks.data_same examples/recipes/books.yaml \
        --set 'sources=[{"type": "books", "path": "../shared/corpora/books_large"}]'

Builds in one thread, in two, on Ray Data with one CPU and with two, and once more in a process that
is killed with SIGKILL at random moments until it gets through. Ends with 1 if any id differs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mulm.config import load_config
from mulm.data.build import build
from mulm.data.executor import InProcess
from mulm.data.recipe import Recipe
from mulm.store import Store

WAYS = ("process-1", "process-2", "ray-1", "ray-2")


def main() -> int:
    """Print a line for each way; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0, help="of the moments of death")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, store = options.child
        print(json.dumps(ids_of(options.recipe, options.overrides, way, Path(store))))
        return 0
    found, took_s = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for way in WAYS:
            started_s = time.monotonic()
            found[way] = json.loads(run(options, way, Path(scratch) / way).stdout)
            took_s[way] = time.monotonic() - started_s
            print(f"{way:<12} {' '.join(found[way])}", flush=True)
        kills, ids = survive(options, Path(scratch) / "killed", took_s["process-2"])
        found["killed"] = ids
        print(f"{f'{kills} kills':<12} {' '.join(ids)}")
    is_same = len({tuple(ids) for ids in found.values()}) == 1
    print("all the same" if is_same else "DIFFERENT")
    return 0 if is_same else 1


def survive(options: argparse.Namespace, store: Path, usual_s: float) -> tuple[int, list[str]]:
    """Kill builds at random moments, then let one end; how many died, and its ids."""
    moments = random.Random(options.seed)
    kills = 0
    for _ in range(5):
        words = command(options, "process-2", store)
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL)  # noqa: S603 ourselves
        try:
            child.wait(moments.uniform(0.3, usual_s))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
    return kills, json.loads(run(options, "process-2", store).stdout)


def run(options: argparse.Namespace, way: str, store: Path) -> subprocess.CompletedProcess[str]:
    """One build in a process of its own."""
    return subprocess.run(  # noqa: S603 ourselves
        command(options, way, store), stdout=subprocess.PIPE, text=True, check=True
    )


def command(options: argparse.Namespace, way: str, store: Path) -> list[str]:
    """The command line of a build in a process of its own."""
    overrides = [word for text in options.overrides for word in ("--set", text)]
    name = [sys.executable, "-m", "benchmarks.data_same", str(options.recipe), *overrides]
    return [*name, "--child", way, str(store)]


def ids_of(recipe: Path, overrides: list[str], way: str, store: Path) -> list[str]:
    """The ids of the three versions of a build."""
    executor = _executor(*way.split("-"))
    built = build(load_config(Recipe, recipe, overrides), Store(store), executor)
    return [built.documents.id, built.tokenizer.id, built.dataset.id]


def _executor(kind: str, n_cpus: str) -> Any:
    if kind == "process":
        return InProcess(int(n_cpus))
    import ray

    from jobs.ray_data import RayData

    ray.init(num_cpus=int(n_cpus), log_to_driver=False, include_dashboard=False)
    return RayData()


if __name__ == "__main__":
    sys.exit(main())
