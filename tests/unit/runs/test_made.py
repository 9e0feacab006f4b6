from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Run
from mulm.runs.made import gone
from mulm.store import Store
from mulm.testing import tiny_dataset


@pytest.fixture
def facts(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as ledger:
        yield ledger


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home.store)


def a_run(facts: Ledger, result: dict[str, Any]) -> Run:
    facts.create_run("run_a", "prepare", {})
    facts.set_phase("run_a", "succeeded", result=result)
    return facts.run("run_a")


def test_what_is_there_is_not_gone(facts: Ledger, store: Store) -> None:
    made = tiny_dataset(store).id
    facts.publish("dataset", "text", made)
    facts.add_file("file_1", "a.gguf", "model_export", 1, "0" * 64)
    result = {"dataset": "text@1", "dataset_id": made, "file": "file_1", "tokens": 9}
    assert gone(a_run(facts, result), facts, store) is None


def test_a_version_whose_name_was_taken_away_is_gone(facts: Ledger, store: Store) -> None:
    made = tiny_dataset(store).id
    facts.publish("dataset", "text", made)
    run = a_run(facts, {"dataset": "text@1", "dataset_id": made})
    facts.remove_version("dataset", "text", 1)
    assert gone(run, facts, store) == "text@1 was removed"
    facts.publish("dataset", "other", made)
    assert gone(run, facts, store) is None, "it has another name"


def test_a_manifest_that_is_only_measured_needs_no_name(facts: Ledger, store: Store) -> None:
    run = a_run(facts, {"bits_per_byte": 1.0, "dataset_id": tiny_dataset(store).id})
    assert gone(run, facts, store) is None


def test_a_manifest_that_is_not_there_is_gone(facts: Ledger, store: Store) -> None:
    run = a_run(facts, {"dataset": "text@1", "dataset_id": "ds_" + "0" * 24})
    told = gone(run, facts, store)
    assert told is not None
    assert "ds_" in told


def test_a_file_that_was_deleted_is_gone(facts: Ledger, store: Store) -> None:
    facts.add_file("file_1", "a.gguf", "model_export", 1, "0" * 64)
    run = a_run(facts, {"model": "m@1", "file": "file_1"})
    assert gone(run, facts, store) is None
    facts.remove_file("file_1")
    told = gone(run, facts, store)
    assert told is not None
    assert "file_1" in told
