from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mulm.data.removal import Gone, going, removable, take_away
from mulm.data.shelf import Shelf
from mulm.errors import ConflictError, CorruptError, NotFoundError
from mulm.ledger import Ledger
from mulm.manifest import Kind, Manifest
from mulm.store import Store


class Books(Shelf):
    """`books@1` with a tokenizer of its own, and what a test adds."""

    facts: Ledger

    def __init__(self, root: Path) -> None:
        super().__init__(Ledger(root / "ledger.sqlite"), Store(root / "store"))
        self.tokenizer = self.made("tokenizer", "t")
        self.facts.publish("tokenizer", "books", self.tokenizer)
        self.dataset = self.made("dataset", "d", tokenizer=self.tokenizer)
        self.facts.publish("dataset", "books", self.dataset)

    def made(self, kind: Kind, seed: str, **parents: str) -> str:
        manifest = Manifest(
            kind=kind, code_version="1", config={"seed": seed}, blobs=(), parents=parents
        )
        return self.store.save(manifest)

    @property
    def names(self) -> list[str]:
        kinds: tuple[Kind, ...] = ("dataset", "tokenizer")
        return [f"{kind} {one.ref}" for kind in kinds for one in self.facts.versions(kind)]

    def gone(self, ref: str = "books@1") -> list[str]:
        return [f"{one.kind} {one.ref}" for one in going(self, removable(self, ref))]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    shelf = Books(tmp_path)
    yield shelf
    shelf.facts.close()


ALL = ["dataset books@1", "tokenizer books@1"]


def test_its_own_tokenizer_goes_with_it(books: Books) -> None:
    assert books.gone() == ALL
    assert books.names == ALL, "it was only asked"


def test_a_tokenizer_that_something_else_needs_stays(books: Books) -> None:
    books.facts.create_run("run_1", "prepare", {"tokenizer": {"ref": "books@1"}})
    assert books.gone() == ["dataset books@1"]
    books.facts.set_phase("run_1", "cancelled")
    assert books.gone() == ALL
    books.facts.set_alias("tokenizer", "books", "good", 1)
    assert books.gone() == ["dataset books@1"]


def test_what_an_alias_or_a_model_needs_may_not_go(books: Books) -> None:
    books.facts.publish("model", "reader", books.made("model", "m", dataset=books.dataset))
    with pytest.raises(ConflictError, match="needed by reader@1"):
        removable(books, "books@1")
    books.facts.publish("dataset", "prose", books.dataset)
    assert removable(books, "books").ref == "books@1", "it has another name"
    books.facts.set_alias("dataset", "books", "good", 1)
    with pytest.raises(ConflictError, match="is books@good"):
        removable(books, "books@1")


READERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "training": ("train", {"name": "m", "dataset": "books@1"}, True),
    "the first of several": ("prepare", {"dedup": {"against": ["books@1", "text@1"]}}, True),
    "of a kind that is not known": ("dream", {"of": ["books@1"]}, True),
    "a model of that name": ("compress", {"model": "books@1"}, False),
    "a tokenizer of that name": ("prepare", {"tokenizer": {"ref": "books@1"}}, False),
    "a label of that name": ("prepare", {"sources": [{"name": "books@1"}]}, False),
    "another one": ("train", {"dataset": "books@11"}, False),
}


@pytest.mark.parametrize("case", READERS)
def test_a_run_that_reads_it_holds_it(books: Books, case: str) -> None:
    kind, config, is_needed = READERS[case]
    books.facts.create_run("run_1", kind, config)
    if is_needed:
        with pytest.raises(ConflictError, match="read by run_1"):
            removable(books, "books@1")
        books.facts.set_phase("run_1", "failed")
    assert removable(books, "books@1").ref == "books@1"


def test_damage_in_the_store_hides_who_needs_it(books: Books) -> None:
    (books.store.root / "manifests" / f"{books.tokenizer}.json").chmod(0o644)
    (books.store.root / "manifests" / f"{books.tokenizer}.json").write_bytes(b"{}")
    with pytest.raises(CorruptError):
        removable(books, "books@1")


def test_a_version_whose_manifest_is_lost_can_go(books: Books) -> None:
    (books.store.root / "manifests" / f"{books.dataset}.json").unlink()
    assert books.gone() == ["dataset books@1"]


def test_names_are_taken_away_together(books: Books) -> None:
    told = take_away(books, "books@1", books.facts.remove_versions)
    assert [f"{one.kind} {one.ref}" for one in told] == ALL
    assert books.names == []
    with pytest.raises(NotFoundError):
        take_away(books, "books@1", books.facts.remove_versions)


def test_what_moves_meanwhile_is_looked_at_again(books: Books) -> None:
    looks = []

    def remove(gone: list[Gone], only_at: int) -> None:
        looks.append(gone)
        if len(looks) == 1:  # of its tokenizer, behind the look
            books.facts.set_alias("tokenizer", "books", "good", 1)
        books.facts.remove_versions(gone, only_at)

    assert [one.kind for one in take_away(books, "books@1", remove)] == ["dataset"]
    assert [len(gone) for gone in looks] == [2, 1]
    assert books.names == ["tokenizer books@1"]


def test_a_run_that_begins_meanwhile_keeps_it(books: Books) -> None:
    def remove(gone: list[Gone], only_at: int) -> None:
        books.facts.create_run("run_1", "train", {"dataset": "books@1"})
        books.facts.remove_versions(gone, only_at)

    with pytest.raises(ConflictError, match="read by run_1"):
        take_away(books, "books@1", remove)
    assert books.names == ALL


def test_an_installation_that_never_rests_is_given_up_on(books: Books) -> None:
    looks: list[int] = []

    def remove(gone: list[Gone], only_at: int) -> None:
        looks.append(only_at)
        books.facts.create_run(f"run_{len(looks)}", "batch", {})
        books.facts.remove_versions(gone, only_at)

    with pytest.raises(ConflictError, match="run_5 has moved meanwhile"):
        take_away(books, "books@1", remove)
    assert len(looks) == 5
    assert books.names == ALL
