from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import prepare as prepare_module
from jobs.entry import JobContext
from jobs.prepare import in_this_process, prepare
from mulm.data.build import build
from mulm.data.executor import InProcess, Made, Work
from mulm.data.recipe import Recipe
from mulm.errors import NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.runs.identity import pinned, prepare_identity
from mulm.store import Store


class Noting(InProcess):
    """Works here, and notes that it was asked."""

    made: list[Noting]

    def __init__(self) -> None:
        super().__init__()
        self.n_stages = 0
        self.made.append(self)

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        self.n_stages += 1
        return super().run(work, tasks, stays_here=stays_here)


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    with Ledger(home.ledger) as ledger:
        ledger.create_run("run_p", "prepare", {})
        yield JobContext("run_p", home, Store(home.store), ledger)


@pytest.fixture
def on_ray(monkeypatch: pytest.MonkeyPatch) -> list[Noting]:
    """The executors on Ray Data that were made; they work in this process."""
    Noting.made = []
    monkeypatch.setitem(sys.modules, "jobs.ray_data", SimpleNamespace(RayData=Noting))
    return Noting.made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for seed in range(3):
        write(folder / f"{seed}.txt", seed)
    return folder


def write(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshr", k=rng.randint(2, 7))) for _ in range(200)]
    path.write_text("\n\n".join(" ".join(rng.choices(words, k=40)) for _ in range(60)))


def recipe_of(folder: Path, **values: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "tiny", "sources": [{"path": str(folder)}], "tokenizer": {"vocab_size": 400}}
        | values
    )


def logged(context: JobContext) -> list[str]:
    return [e.data["text"] for e in context.facts.events("run_p") if e.kind == "log"]


def test_builds_and_publishes(context: JobContext, folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder)
    result = prepare(context, recipe)
    built = build(recipe, Store(tmp_path / "other"))
    assert result["dataset"] == "tiny@1"
    assert result["tokenizer"] == "tiny@1"
    assert result["dataset_id"] == built.dataset.id
    assert result["tokenizer_id"] == built.tokenizer.id
    assert result["documents_id"] == built.documents.id
    assert result["documents"] == built.documents.counts["documents"]
    assert result["rejects"] == {}
    assert result["train_tokens"] == built.dataset.counts["train_tokens"]
    assert result["vocab_size"] == 400
    kinds = {event.kind for event in context.facts.events("run_p")}
    assert {"stage", "progress", "log"} <= kinds


def test_the_same_again_keeps_its_number(context: JobContext, folder: Path) -> None:
    first = prepare(context, recipe_of(folder))
    assert prepare(context, recipe_of(folder)) == first
    write(folder / "new.txt", 9)
    more = prepare(context, recipe_of(folder))
    assert (more["dataset"], more["tokenizer"]) == ("tiny@2", "tiny@2")
    assert context.store.load(first["dataset_id"]).id == first["dataset_id"]


@pytest.mark.parametrize(
    ("runs_on", "small_bytes", "is_on_ray"),
    [
        ("auto", 1 << 30, False),
        ("auto", 10, True),
        ("process", 10, False),
        ("ray", 1 << 30, True),
    ],
)
def test_who_works_is_chosen_by_size_and_recipe(
    context: JobContext, folder: Path, on_ray: list[Noting], monkeypatch: pytest.MonkeyPatch,
    runs_on: str, small_bytes: int, is_on_ray: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(prepare_module, "SMALL_BYTES", small_bytes)
    result = prepare(context, recipe_of(folder, runs_on=runs_on))
    assert [executor.n_stages for executor in on_ray] == ([2] if is_on_ray else [])
    [said] = logged(context)
    assert said.startswith("on Ray Data" if is_on_ray else "in one process")
    assert f"runs_on: {runs_on}" in said
    assert result["dataset_id"] == build(recipe_of(folder), context.store).dataset.id


def test_a_given_executor_is_used(context: JobContext, folder: Path, on_ray: list[Noting]) -> None:
    given = Noting()
    prepare(context, recipe_of(folder, runs_on="ray"), given)
    assert on_ray == [given]
    assert given.n_stages == 2
    assert logged(context) == []


def test_references_are_looked_up(context: JobContext, folder: Path) -> None:
    first = prepare(context, recipe_of(folder))
    write(folder / "new.txt", 9)
    write(folder / "newer.txt", 10)
    values = {"tokenizer": {"ref": "tiny"}, "dedup": {"against": ["tiny"]}, "name": "more"}
    recipe = pinned(recipe_of(folder, **values), context.facts)
    assert recipe.dedup.against == ("tiny@1",)
    result = prepare(context, recipe)
    assert result["tokenizer"] == "tiny@1"
    assert result["dataset"] == "more@1"
    assert result["rejects"] == {"known": first["documents"]}
    for wrong in ({"tokenizer": {"ref": "other"}}, {"dedup": {"against": ["other"]}}):
        with pytest.raises(NotFoundError, match="other"):
            prepare(context, recipe_of(folder, **wrong))


def test_a_dataset_that_no_build_made_cannot_be_compared_with(
    context: JobContext, folder: Path
) -> None:
    foreign = Manifest(kind="dataset", code_version="0", config={}, blobs=())
    context.store.save(foreign)
    context.facts.publish("dataset", "foreign", foreign.id)
    with pytest.raises(NotFoundError, match="documents of foreign"):
        prepare(context, recipe_of(folder, dedup={"against": ["foreign"]}))


def test_a_run_is_its_files_references_and_evaluations(
    context: JobContext, folder: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "suite.txt"
    suite.write_text("one question")
    recipe = recipe_of(folder, decontaminate={"paths": [str(suite)]})

    def identity() -> dict[str, Any]:
        return prepare_identity(recipe, context.facts, context.store)

    first = identity()
    assert str(tmp_path) not in str(first)
    suite.write_text("another question")
    second = identity()
    assert second["evaluations"] != first["evaluations"]
    write(folder / "1.txt", 8)
    assert identity()["files"] != second["files"]


def test_all_cores_are_used() -> None:
    assert isinstance(in_this_process(), InProcess)
