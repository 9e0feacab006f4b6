from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from actors.cluster_info import ray_env
from actors.head import ENV_VARIABLES_OF_RAY
from mulm.config import load_config
from mulm.data.build import build
from mulm.data.executor import InProcess
from mulm.data.recipe import Recipe
from mulm.store import Store

pytestmark = pytest.mark.cluster

BUILD_ON_RAY = """
import sys
import time
from pathlib import Path
import ray
from jobs.ray_data import RayData
from mulm.config import load_config
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.store import Store

ray.init(address="auto", log_to_driver=False)
built = build(load_config(Recipe, Path(sys.argv[1])), Store(Path(sys.argv[2])), RayData())
print(built.documents.id, built.tokenizer.id, built.dataset.id)
"""

FAIL_ON_RAY = """
import ray
from jobs.run_end import mulm_cause
from jobs.ray_data import RayData
from mulm.errors import NoSpaceError

def work(task):
    yield from ()
    raise NoSpaceError("full", hint="make room")

ray.init(address="auto", log_to_driver=False)
try:
    list(RayData().run(work, [0, 1]))
except Exception as error:
    ours = mulm_cause(error)
    print(type(ours).__name__, ours.message, ours.hint)
"""


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    rng = random.Random(5)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(300)]
    for number in range(9):
        sentences = [" ".join(rng.choices(words, k=9)).capitalize() + "." for _ in range(400)]
        text = "\n\n".join(" ".join(sentences[i : i + 4]) for i in range(0, 400, 4))
        (folder / f"{number}.txt.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "binary.txt").write_bytes(b"\0\1" * 500)
    (folder / "cut.txt.gz").write_bytes((folder / "0.txt.gz").read_bytes()[:500])
    (folder / "twice.txt.gz").write_bytes((folder / "3.txt.gz").read_bytes())
    nearly = gzip.decompress((folder / "4.txt.gz").read_bytes()).replace(b"e", b"E", 3)
    (folder / "nearly.txt").write_bytes(nearly.replace(b".", b"!", 2) + b"One word more.")
    # Three sources are three tasks at least, however small.
    (folder / "more").mkdir()
    for number in (0, 5, 6):
        (folder / f"{number}.txt.gz").rename(folder / "more" / f"{number}.txt.gz")
    web = [{"text": f"{number} {' '.join(rng.choices(words, k=120))}."} for number in range(40)]
    (folder / "web.jsonl").write_text("\n".join(map(json.dumps, web)))
    recipe = {
        "name": "prepared",
        "sources": [
            {"path": str(folder / "*.txt*"), "licence": "CC0-1.0"},
            {"path": str(folder / "more"), "licence": "CC0-1.0"},
            {"path": str(folder / "web.jsonl"), "licence": "CC0-1.0"},
        ],
        "dedup": {"near": {}},
        "runs_on": "ray",
        "tokenizer": {"vocab_size": 512},
        "chat_fraction": 0.2,
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def inside(cluster: Any) -> dict[str, str]:
    """The environment as inside a job: Ray looks for the head on loopback."""
    of_ray = {**ENV_VARIABLES_OF_RAY, "RAY_ADDRESS": cluster.info.gcs_address}
    return {**os.environ, **ray_env(cluster.home), **of_ray}


def run_python(cluster: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=inside(cluster),
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_ray_data_equals_in_process(cluster: Any, recipe_path: Path, tmp_path: Path) -> None:
    done = run_python(cluster, "-c", BUILD_ON_RAY, str(recipe_path), str(tmp_path / "there"))
    assert done.returncode == 0, done.stderr
    recipe = load_config(Recipe, recipe_path)
    here = build(recipe, Store(tmp_path / "here"), InProcess(2))
    assert len([b for b in here.documents.blobs if b.name.startswith("chunk-")]) > 2
    assert here.rejects.keys() == {"binary", "duplicate", "near_duplicate", "unreadable"}
    assert done.stdout.split() == [here.documents.id, here.tokenizer.id, here.dataset.id]


def test_job_publishes_once(cluster: Any, recipe_path: Path) -> None:
    command = ("-m", "jobs.prepare", "--config", str(recipe_path))
    done = run_python(cluster, *command)
    assert done.returncode == 0, done.stderr
    assert "on Ray Data" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["dataset"] == "prepared@1"
    assert result["tokenizer"] == "prepared@1"
    here = build(load_config(Recipe, recipe_path), Store(recipe_path.parent / "here"))
    assert result["dataset_id"] == here.dataset.id
    assert result["rejects"] == here.rejects
    assert json.loads(run_python(cluster, *command).stdout.splitlines()[-1]) == result

    # Another recipe may use the tokenizer that this one made.
    other = ("--set", "name=other", "--set", 'tokenizer={"ref": "prepared@1"}')
    done = run_python(cluster, *command, *other, "--set", 'split={"salt": "x"}')
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout.splitlines()[-1])
    assert (second["dataset"], second["tokenizer"]) == ("other@1", "prepared@1")
    assert second["dataset_id"] != result["dataset_id"]


def test_bad_input_is_one_clear_line(cluster: Any, recipe_path: Path) -> None:
    missing = ("--set", 'sources=[{"path": "no/such.txt"}]')
    done = run_python(cluster, "-m", "jobs.prepare", "--config", str(recipe_path), *missing)
    assert done.returncode not in (0, 1)
    assert "error [not_found]: no such file or folder: 'no/such.txt'" in done.stderr


def test_a_killed_build_goes_on_and_gives_the_same_version(cluster: Any, recipe_path: Path) -> None:
    command = ("-m", "jobs.prepare", "--config", str(recipe_path), "--set", "name=killed")
    recipe = load_config(Recipe, recipe_path, ["name=killed"])
    steps = cluster.home.store / "steps"
    before = set(steps.glob("*")) if steps.exists() else set()
    with subprocess.Popen(
        [sys.executable, *command], env=inside(cluster), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as killed:  # fmt: skip
        deadline_s = time.monotonic() + 120
        while not set(steps.glob("*")) - before and time.monotonic() < deadline_s:
            time.sleep(0.01)
        killed.kill()
    assert set(steps.glob("*")) - before, "nothing was finished before the kill"
    done = run_python(cluster, *command)
    assert done.returncode == 0, done.stderr
    here = build(recipe, Store(recipe_path.parent / "here"))
    assert json.loads(done.stdout.splitlines()[-1])["dataset_id"] == here.dataset.id


def test_an_error_of_ours_in_a_task_stays_one(cluster: Any) -> None:
    done = run_python(cluster, "-c", FAIL_ON_RAY)
    assert done.stdout == "NoSpaceError full make room\n", done.stderr
