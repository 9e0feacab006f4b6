from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.run_resume import continuation
from mulm.config import parse_config
from mulm.data.recipe import Recipe
from mulm.errors import ConflictError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Run
from mulm.runs.identity import prepare_identity, run_id_of
from mulm.store import Store
from mulm.train.config import TrainConfig


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as ledger:
        yield ledger


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home.store)


def training(ledger: Ledger) -> Run:
    config = TrainConfig(name="demo", dataset="tiny@1", workers=2)
    return ledger.create_run("run_a", "train", config.model_dump(mode="json"))


def test_what_has_no_part_in_the_result_may_change(ledger: Ledger, store: Store) -> None:
    run = training(ledger)
    found = continuation(run, ledger, store, ["workers=1", "log_every=3"])
    assert isinstance(found.config, TrainConfig)
    assert (found.config.workers, found.config.log_every, found.run_id) == (1, 3, "run_a")
    assert run.config["workers"] == 2
    for override in ("steps=3", "optimizer.matrix_lr=0.5", "seed=9"):
        with pytest.raises(ConflictError, match=f"{override.split('.')[0].split('=')[0]}: run_a"):
            continuation(run, ledger, store, [override])


def test_it_goes_on_in_the_folder_where_it_began(
    ledger: Ledger, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, now = tmp_path / "began", tmp_path / "now"
    (began / "texts").mkdir(parents=True)
    now.mkdir()
    (began / "texts" / "a.txt").write_text("some text\n")
    values = {"name": "text", "sources": [{"type": "text", "path": "texts"}]}
    recipe = parse_config(Recipe, values)
    monkeypatch.chdir(began)
    run_id = run_id_of("prepare", recipe, prepare_identity(recipe, ledger, store))
    run = ledger.create_run(run_id, "prepare", recipe.model_dump(mode="json"))
    ledger.append_events(run_id, [("started", {"folder": str(began)})])
    monkeypatch.chdir(now)
    found = continuation(run, ledger, store)
    assert (found.folder, found.config, Path.cwd()) == (began, recipe, now)

    (began / "texts" / "a.txt").write_text("other text\n")
    with pytest.raises(ConflictError, match="has changed since it began"):
        continuation(run, ledger, store)


def test_a_folder_that_is_gone_is_this_one(
    ledger: Ledger, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = training(ledger)
    assert continuation(run, ledger, store).folder == tmp_path
    ledger.append_events("run_a", [("started", {"folder": str(tmp_path / "gone")})])
    assert continuation(run, ledger, store).folder == tmp_path
