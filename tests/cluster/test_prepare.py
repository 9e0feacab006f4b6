from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.cluster_info import ray_env
from actors.head import ENV_VARIABLES_OF_RAY
from mulm.config import load_config
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.store import Store

pytestmark = pytest.mark.cluster

BUILD_WITH_BLOCKS = """
import sys
from pathlib import Path
import ray
from jobs.prepare import RayData
from mulm.config import load_config
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.store import Store

ray.init(address="auto", log_to_driver=False)
recipe = load_config(Recipe, Path(sys.argv[1]))
for n_blocks in (1, 7):
    store = Store(Path(sys.argv[2]) / str(n_blocks))
    built = build(recipe, store, RayData(n_blocks), shard_bytes=60_000)
    print(built.documents.id, built.tokenizer.id, built.dataset.id)
"""

READ_IN_VAIN = """
from pathlib import Path
import ray
from jobs.entry import mulm_cause
from jobs.prepare import RayData
from mulm.data.documents import FileTask
from mulm.data.sources.base import SourceFile
from mulm.errors import NoSpaceError

def read_file(task):
    raise NoSpaceError("full", hint="make room")

ray.init(address="auto", log_to_driver=False)
try:
    RayData().read([FileTask(0, 0, SourceFile("a.txt", Path("a.txt")))], read_file)
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
    recipe = {
        "name": "tiny",
        "sources": [{"path": str(folder), "licence": "CC0-1.0"}],
        "tokenizer": {"vocab_size": 512},
        "chat_fraction": 0.2,
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def run_python(cluster: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As inside a job: Ray looks for the head on loopback.
    inside = {**ENV_VARIABLES_OF_RAY, "RAY_ADDRESS": cluster.info.gcs_address}
    env = {**os.environ, **ray_env(cluster.home), **inside}
    return subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=250
    )


def test_any_number_of_blocks_equals_in_process(
    cluster: Any, recipe_path: Path, tmp_path: Path
) -> None:
    done = run_python(cluster, "-c", BUILD_WITH_BLOCKS, str(recipe_path), str(tmp_path / "stores"))
    assert done.returncode == 0, done.stderr
    here = build(load_config(Recipe, recipe_path), Store(tmp_path / "here"), shard_bytes=60_000)
    assert len([b for b in here.dataset.blobs if b.name.startswith("train-")]) > 2
    assert here.rejects.keys() == {"binary", "duplicate", "unreadable"}
    ids = " ".join((here.documents.id, here.tokenizer.id, here.dataset.id))
    assert done.stdout.splitlines() == [ids, ids]


def test_job_publishes_once(cluster: Any, recipe_path: Path) -> None:
    command = ("-m", "jobs.prepare", "--config", str(recipe_path))
    done = run_python(cluster, *command)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["dataset"] == "tiny@1"
    assert result["tokenizer"] == "tiny@1"
    here = build(load_config(Recipe, recipe_path), Store(recipe_path.parent / "here"))
    assert result["dataset_id"] == here.dataset.id
    assert result["rejects"] == here.rejects
    assert json.loads(run_python(cluster, *command).stdout.splitlines()[-1]) == result

    # Another recipe may use the tokenizer that this one made.
    other = ("--set", "name=other", "--set", 'tokenizer={"ref": "tiny@1"}')
    done = run_python(cluster, *command, *other, "--set", 'split={"salt": "x"}')
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout.splitlines()[-1])
    assert (second["dataset"], second["tokenizer"]) == ("other@1", "tiny@1")
    assert second["dataset_id"] != result["dataset_id"]


def test_bad_input_is_one_clear_line(cluster: Any, recipe_path: Path) -> None:
    missing = ("--set", 'sources=[{"path": "no/such.txt"}]')
    done = run_python(cluster, "-m", "jobs.prepare", "--config", str(recipe_path), *missing)
    assert done.returncode not in (0, 1)
    assert "error [not_found]: no such file or folder: 'no/such.txt'" in done.stderr


def test_an_error_of_ours_in_a_task_stays_one(cluster: Any) -> None:
    done = run_python(cluster, "-c", READ_IN_VAIN)
    assert done.stdout == "NoSpaceError full make room\n", done.stderr
