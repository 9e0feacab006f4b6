from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.data.build import Build, build
from mulm.data.documents import from_parquet
from mulm.data.loader import TokenLoader
from mulm.data.recipe import Recipe
from mulm.data.tokenizer import Tokenizer
from mulm.errors import DataError, NoSpaceError, NotFoundError, TokenizerMismatchError
from mulm.store import Store


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(exclude_unset=True), **values})


def files_of(store: Store) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in store.root.rglob("*")}


def ids_of(built: Build) -> tuple[str, str, str]:
    return built.documents.id, built.tokenizer.id, built.dataset.id


def test_bit_for_bit_on_another_machine(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    built = build(recipe, store)
    moved = tmp_path / "elsewhere"
    shutil.copytree(recipe.sources[0].path, moved)
    again = build(
        changed(recipe, sources=[{"path": f"{moved}/", "licence": "CC0-1.0"}]),
        Store(tmp_path / "other"),
    )
    assert ids_of(again) == ids_of(built)
    assert str(tmp_path) not in built.documents.to_bytes().decode()


def test_second_run_does_nothing(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    before = files_of(store)
    events: list[tuple[str, dict[str, Any]]] = []
    again = build(
        recipe, store, NoExecutor(), emit=lambda kind, **data: events.append((kind, data))
    )
    assert again == built
    assert files_of(store) == before
    assert [data["name"] for _, data in events] == ["documents", "tokenizer", "dataset"]
    assert all("known already" in data["text"] for _, data in events)


class NoExecutor:
    """Fails if it is asked to do anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_dataset_holds_what_it_says(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    counts, tokenizer_json = built.dataset.counts, store.read(built.dataset.blob("tokenizer.json"))
    tokenizer = Tokenizer.from_bytes(tokenizer_json)
    assert built.dataset.tokenizer_fingerprint == tokenizer.fingerprint
    assert built.dataset.parents["documents"] == built.documents.id
    assert built.dataset.licences == ("CC0-1.0",)
    held_out = store.read(built.dataset.blob("validation.txt"))
    assert len(held_out) == counts["validation_bytes"]
    loader = TokenLoader(store, built.dataset, "validation", seq_len=32)
    assert loader.n_tokens == counts["validation_tokens"]
    batches = list(loader.iter_validation(8))
    targets = torch.cat([y.flatten() for _, y in batches])
    assert tokenizer.decode(targets[targets >= 0].tolist()).encode() == held_out
    train = TokenLoader(store, built.dataset, seq_len=32)
    assert train.n_tokens == counts["train_tokens"]


def test_rejects_are_kept_with_reasons(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    table = from_parquet(store.read(built.documents.blob("rejects-00000.parquet")))
    found = dict(zip(table["name"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert found["broken.txt.gz"] == "unreadable"
    assert found["deep/again.md"] == "duplicate"
    assert sum(built.rejects.values()) == len(table)
    assert set(built.rejects) == set(found.values())


def test_another_recipe_shares_what_is_equal(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    other = build(changed(recipe, tokenizer={"vocab_size": 448}), store)
    assert other.documents == built.documents
    assert other.dataset.id != built.dataset.id


def test_given_tokenizer(recipe: Recipe, store: Store) -> None:
    given = build(recipe, store).tokenizer
    fingerprint = given.tokenizer_fingerprint
    values = {"ref": "tiny@1", "fingerprint": fingerprint}
    other = changed(recipe, split={"salt": "other"}, tokenizer=values)
    built = build(other, store, tokenizer=given)
    assert built.tokenizer == given
    assert built.dataset.parents["tokenizer"] == given.id
    values["fingerprint"] = "f" * 24
    with pytest.raises(TokenizerMismatchError, match="recipe 'tiny'"):
        build(changed(recipe, tokenizer=values), store, tokenizer=given)


def test_damaged_blob_is_made_anew(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    for name in ("train-00000.bin", "validation.txt"):
        path = store.path(built.dataset.blob(name))
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert build(recipe, store) == built
        store.read(built.dataset.blob(name))


def test_all_rejected_names_the_reasons(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\0" * 99)
    (folder / "b.txt").write_text("")
    with pytest.raises(DataError, match=r"2 files \('a.txt', 'b.txt'\): binary 1, empty 1"):
        build(changed(recipe, sources=[{"path": str(folder)}]), store)
    assert not list(store.root.rglob("*.json"))


def test_nothing_half_written(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        build(changed(recipe, sources=[{"path": str(tmp_path / "none")}]), store)
    (tmp_path / "one.txt").write_text("A letter that is long enough to be kept, but alone. " * 2)
    with pytest.raises(DataError, match="smaller than one validation document"):
        build(changed(recipe, sources=[{"path": str(tmp_path / "one.txt")}]), store)
    assert not list(store.root.rglob("*.json"))


def test_vocabulary_too_large_keeps_finished_steps(recipe: Recipe, store: Store) -> None:
    with pytest.raises(DataError, match="vocab_size 60000 is too large"):
        build(changed(recipe, tokenizer={"vocab_size": 60_000}), store)
    assert len(list((store.root / "steps").iterdir())) == 1


def test_full_disk(recipe: Recipe, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Callable[..., Any] = shutil.disk_usage
    free = usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(NoSpaceError):
        build(recipe, store)
