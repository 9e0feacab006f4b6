from __future__ import annotations

import errno
import gzip
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mulm.config import canonical_json
from mulm.data import clean, tasks
from mulm.data.build import Build, build
from mulm.data.build_documents import foreign_code
from mulm.data.corpus import Corpus
from mulm.data.executor import InProcess, Made, Work
from mulm.data.loader import IGNORED_TARGET, TokenLoader
from mulm.data.recipe import Recipe
from mulm.data.tokenizer import Tokenizer
from mulm.errors import (
    DataError,
    MulmError,
    NoSpaceError,
    NotFoundError,
    SchemaError,
    TokenizerMismatchError,
)
from mulm.manifest import Manifest
from mulm.store import Store

Prose = Callable[[int, int], str]
Ids = tuple[str, str, str]


class KilledAfter:
    """An executor whose process ends when so many tasks have, of whatever stage."""

    def __init__(self, n_tasks: int) -> None:
        self._left = n_tasks

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        for made in InProcess().run(work, tasks, stays_here=stays_here):
            if not self._left:
                raise KeyboardInterrupt
            yield made
            self._left -= made[1] is None


class NoExecutor:
    """Fails if it is asked to do anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(exclude_unset=True), **values})


def reading(folder: Path, **values: Any) -> Recipe:
    """A recipe that reads a folder and learns a small tokenizer."""
    return Recipe.model_validate(
        {"name": "tiny", "sources": [{"path": str(folder)}], "tokenizer": {"vocab_size": 448}}
        | values
    )


def ids_of(built: Build) -> Ids:
    return built.documents.id, built.tokenizer.id, built.dataset.id


def files_of(store: Store) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in store.root.rglob("*")}


def blobs_of(manifest: Manifest, prefix: str) -> set[str]:
    return {entry.sha256 for entry in manifest.blobs if entry.name.startswith(prefix)}


def verdicts(built: Build, store: Store) -> list[tuple[str, str]]:
    """(file, what became of it) of each document, in order."""
    corpus = Corpus.of(store, built.documents)
    return [
        (name, chunk.decisions.names[code])
        for chunk in corpus.chunks
        for name, code in zip(
            corpus.table(chunk, ["name"])["name"].to_pylist(), chunk.decisions.codes, strict=True
        )
    ]


def rejects(built: Build, store: Store) -> dict[str, str]:
    return {n: what for n, what in verdicts(built, store) if what not in ("train", "validation")}


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is a task."""
    monkeypatch.setattr(tasks, "_LEAST_BYTES", 1)
    monkeypatch.setattr(tasks, "_BORDER_BYTES", 1)


@pytest.fixture
def books(tmp_path: Path, prose: Prose) -> Path:
    """Three books, one twice, and a chat."""
    folder = tmp_path / "books"
    folder.mkdir()
    for seed in range(3):
        (folder / f"b{seed}.txt").write_text(prose(seed, 40))
    (folder / "copy.txt").write_text(prose(1, 40))
    return folder


def write_chats(path: Path, n: int) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is the number {i}?"},
                {"role": "assistant", "content": f"It is the one after {i - 1}, my dear friend."},
            ]
        }
        for i in range(n)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


# --- the same result -----------------------------------------------------------------------------


def test_bit_for_bit_on_another_machine(recipe: Recipe, store: Store, tmp_path: Path) -> None:
    built = build(recipe, store)
    moved = tmp_path / "elsewhere"
    shutil.copytree(recipe.sources[0].path, moved)
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    source = {"path": f"{moved}/", "licence": "CC0-1.0"}
    other = Store(tmp_path / "other")
    again = build(changed(recipe, sources=[source], runs_on="ray"), other, InProcess(2))
    assert ids_of(again) == ids_of(built)
    for manifest in (built.documents, built.tokenizer, built.dataset):
        assert str(tmp_path) not in manifest.to_bytes().decode()
        assert other.load(manifest.id) == manifest


@pytest.mark.usefixtures("small_tasks")
def test_threads_and_kills_change_nothing(books: Path, tmp_path: Path) -> None:
    recipe = reading(books, chat_fraction=0.2, dedup={"near": {}})
    expected = ids_of(build(recipe, Store(tmp_path / "one")))
    assert ids_of(build(recipe, Store(tmp_path / "three"), InProcess(3))) == expected
    killed, n_runs, found = Store(tmp_path / "killed"), 0, None
    while found is None:
        try:
            found = ids_of(build(recipe, killed, KilledAfter(1)))
        except KeyboardInterrupt:
            n_runs += 1
    assert n_runs == 7, "four files, three of them not known, and each run ends one"
    assert found == expected


@pytest.mark.usefixtures("small_tasks")
def test_an_unfinished_build_is_no_version(books: Path, store: Store) -> None:
    for n_tasks in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            build(reading(books), store, KilledAfter(n_tasks))
        assert not list((store.root / "manifests").glob("*"))


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


def test_events_of_a_build(recipe: Recipe, store: Store) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    build(recipe, store, emit=lambda kind, **data: events.append((kind, data)))
    stages = [data["name"] for kind, data in events if kind == "stage"]
    assert stages == ["documents", "tokenizer", "dataset"]
    for name in ("documents", "dataset"):
        told = [d for kind, d in events if kind == "progress" and d["stage"] == name]
        assert told[-1]["done"] == told[-1]["total"]
        assert {"rate_per_s", "eta_s", "unit"} <= told[0].keys()
        assert sorted(d["done"] for d in told) == [d["done"] for d in told]


# --- sharing -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_tasks")
def test_a_new_file_shares_all_other_chunks(books: Path, store: Store, prose: Prose) -> None:
    built = build(reading(books), store)
    given = {"ref": "tiny@1"}
    with_ref = build(reading(books, tokenizer=given), store, tokenizer=built.tokenizer)
    (books / "a-new-one.txt").write_text(prose(9, 60))
    more = build(reading(books, tokenizer=given), store, tokenizer=built.tokenizer)
    old_chunks = blobs_of(built.documents, "chunk-")
    assert len(old_chunks) == 4
    assert old_chunks < blobs_of(more.documents, "chunk-")
    old_shards = blobs_of(with_ref.dataset, "train-")
    assert len(old_shards) == 2, "of three books one is held out"
    assert old_shards < blobs_of(more.dataset, "train-")
    assert blobs_of(with_ref.dataset, "validation-0") <= blobs_of(more.dataset, "validation-0")
    assert more.dataset.counts["train_tokens"] > with_ref.dataset.counts["train_tokens"]
    assert ids_of(build(reading(books), store))[0] == more.documents.id


@pytest.mark.usefixtures("small_tasks")
def test_a_new_file_is_all_that_is_read(books: Path, store: Store, prose: Prose) -> None:
    build(reading(books), store)
    (books / "new.txt").write_text(prose(9, 60))
    with pytest.raises(KeyboardInterrupt):
        build(reading(books), store, KilledAfter(1))
    assert ids_of(build(reading(books), store, KilledAfter(10)))


def test_another_recipe_shares_what_is_equal(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    other = build(changed(recipe, tokenizer={"vocab_size": 448}), store)
    assert other.documents == built.documents
    assert other.dataset.id != built.dataset.id
    split = build(changed(recipe, split={"salt": "other"}), store)
    assert split.documents.id != built.documents.id
    assert blobs_of(split.documents, "chunk-") == blobs_of(built.documents, "chunk-")


def test_damaged_blob_is_made_anew(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    for manifest, name in (
        (built.dataset, "train-00000.bin"),
        (built.dataset, "validation.txt"),
        (built.documents, "chunk-source1-00000.parquet"),
        (built.documents, "decisions.bin"),
    ):
        path = store.path(manifest.blob(name))
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert build(recipe, store) == built
        store.read(manifest.blob(name))


# --- what is inside ------------------------------------------------------------------------------


def test_dataset_holds_what_it_says(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    counts, tokenizer_json = built.dataset.counts, store.read(built.dataset.blob("tokenizer.json"))
    tokenizer = Tokenizer.from_bytes(tokenizer_json)
    assert built.dataset.tokenizer_fingerprint == tokenizer.fingerprint
    assert built.dataset.parents["documents"] == built.documents.id
    assert built.dataset.licences == ("CC0-1.0",)
    held_out = store.read(built.dataset.blob("validation.txt"))
    assert len(held_out) == counts["validation_bytes"] == built.documents.counts["validation_bytes"]
    loader = TokenLoader(store, built.dataset, "validation", seq_len=32)
    assert loader.n_tokens == counts["validation_tokens"]
    assert tokenizer.decode(targets_of(loader)).encode() == held_out
    train = TokenLoader(store, built.dataset, seq_len=32)
    assert train.n_tokens == counts["train_tokens"]
    assert (
        counts["train_documents"] + counts["validation_documents"]
        == (built.documents.counts["documents"])
    )


def targets_of(loader: TokenLoader) -> list[int]:
    targets = torch.cat([y.flatten() for _, y in loader.iter_validation(8)])
    return [int(i) for i in targets[targets != IGNORED_TARGET]]


def test_rejects_are_kept_with_reasons(recipe: Recipe, store: Store) -> None:
    built = build(recipe, store)
    assert rejects(built, store) == {
        "binary.txt": "binary", "blank.txt": "empty", "broken.txt.gz": "unreadable",
        "deep/again.md": "duplicate", "latin1.txt": "invalid_utf8", "short.txt": "too_short",
    }  # fmt: skip
    found = [what for _, what in verdicts(built, store)]
    assert built.rejects == {w: found.count(w) for w in set(found) - {"train", "validation"}}
    assert built.documents.counts["documents"] == found.count("train") + found.count("validation")
    assert built.documents.counts["files"] == 9


def test_whole_files_are_held_out(books: Path, store: Store) -> None:
    built = build(reading(books, split={"by": "file", "validation_fraction": 0.3}), store)
    sides: dict[str, set[str]] = {}
    for name, what in verdicts(built, store):
        sides.setdefault(name, set()).add(what)
    assert all(len(found) == 1 for found in sides.values())
    assert {"train"} in sides.values()
    assert {"validation"} in sides.values()


def test_best_fit_is_read_back(books: Path, store: Store) -> None:
    write_chats(books / "chats.jsonl", 20)
    built = build(reading(books, pack={"mode": "best_fit", "seq_len": 64}), store)
    train = TokenLoader(store, built.dataset, seq_len=64)
    assert train.n_tokens % 65 == 0
    end = Tokenizer.from_bytes(store.read(built.tokenizer.blob("tokenizer.json"))).end_of_text_id
    x_BT, y_BT = train.batch(0, 8)
    assert x_BT.shape == y_BT.shape == (8, 64)
    assert (x_BT[:, 0] == end).all()
    held_out = TokenLoader(store, built.dataset, "validation", seq_len=64)
    assert held_out.n_tokens == built.dataset.counts["validation_tokens"]
    n_learned = sum(i != end for i in targets_of(held_out))
    plain = build(reading(books), store)
    unpacked = TokenLoader(store, plain.dataset, "validation", seq_len=64)
    assert n_learned == sum(i != end for i in targets_of(unpacked))


def test_chats_are_learned_where_the_assistant_speaks(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "chats"
    folder.mkdir()
    write_chats(folder / "chats.jsonl", 200)
    recipe = reading(folder, tokenizer={"vocab_size": 300}, split={"validation_fraction": 0.2})
    built = build(recipe, store)
    assert "train-00000.mask" in {entry.name for entry in built.dataset.blobs}
    tokenizer = Tokenizer.from_bytes(store.read(built.tokenizer.blob("tokenizer.json")))
    loader = TokenLoader(store, built.dataset, "validation", seq_len=50)
    said = store.read(built.dataset.blob("validation.txt")).decode()
    assert tokenizer.decode(targets_of(loader)) == said
    assert said.startswith("It is the one after")
    assert "What is" not in said
    _, y_BT = TokenLoader(store, built.dataset, seq_len=50).batch(0, 4)
    assert (y_BT == IGNORED_TARGET).any()


def test_sources_are_mixed_by_weight(books: Path, store: Store, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    write_chats(chats, 100)
    sources = [
        {"path": str(books), "name": "books", "weight": 3, "licence": "MIT"},
        {"path": str(chats), "name": "chats", "weight": 1, "licence": "CC0-1.0"},
    ]
    built = build(reading(books, sources=sources), store)
    names = {entry.name for entry in built.dataset.blobs}
    assert {"train-books-00000.bin", "train-chats-00001.bin", "train-chats-00001.mask"} <= names
    assert built.dataset.config["mixture"] == {"books": 3.0, "chats": 1.0}
    assert built.dataset.licences == ("CC0-1.0", "MIT")
    TokenLoader(store, built.dataset, seq_len=32).batch(0, 16)
    other = [sources[0], {**sources[1], "weight": 2}]
    reweighed = build(reading(books, sources=other), store)
    assert reweighed.documents == built.documents
    assert reweighed.dataset.id != built.dataset.id


def test_sources_may_hold_files_of_one_name(tmp_path: Path, store: Store, prose: Prose) -> None:
    for n in range(2):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "same.txt").write_text(prose(n, 40))
    sources = [{"path": str(tmp_path / str(n))} for n in range(2)]
    built = build(reading(tmp_path, sources=sources), store)
    assert built.documents.counts["files"] == 2
    assert not built.rejects


# --- repetitions ---------------------------------------------------------------------------------


def test_near_duplicates_are_dropped(books: Path, store: Store, prose: Prose) -> None:
    words = prose(2, 40).split(" ")
    words[::150] = ["other"] * len(words[::150])
    (books / "z-edition.txt").write_text(" ".join(words))
    exact = build(reading(books), store)
    near = build(reading(books, dedup={"near": {"min_similarity": 0.7}}), store)
    assert rejects(exact, store) == {"copy.txt": "duplicate"}
    assert rejects(near, store) == {"copy.txt": "duplicate", "z-edition.txt": "near_duplicate"}


def test_what_another_version_holds_is_known(books: Path, store: Store, prose: Prose) -> None:
    first = build(reading(books), store)
    (books / "new.txt").write_text(prose(9, 60))
    recipe = reading(books, dedup={"against": ["old@1"], "near": {}}, tokenizer={"ref": "t"})
    built = build(recipe, store, tokenizer=first.tokenizer, against={"old@1": first.documents})
    assert set(rejects(built, store).values()) == {"known"}
    assert {n for n, what in verdicts(built, store) if what != "known"} == {"new.txt"}
    assert built.documents.config["against"] == [first.documents.id]
    renamed = reading(books, dedup={"against": ["mine@7"], "near": {}}, tokenizer={"ref": "t"})
    again = build(renamed, store, tokenizer=first.tokenizer, against={"mine@7": first.documents})
    assert again.dataset.id == built.dataset.id, "the name of a version is its owner's affair"


SHOUTING = """
from mulm.data.sources.base import RawDocument
from mulm.data.sources.text import TextSource

class Shouting(TextSource):
    def read(self, spec, file, part):
        for document in super().read(spec, file, part):
            yield RawDocument(document.text.upper())
"""


def test_a_source_of_ones_own_that_was_changed_is_read_again(
    books: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "shouting_source.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    values = {
        "name": "loud",
        "tokenizer": {"vocab_size": 300},
        "sources": [{"path": str(books), "type": "shouting_source:Shouting"}],
    }
    recipe = Recipe.model_validate(values)
    identities, found = set(), []
    for change in ("upper", "lower", "upper"):
        module.write_text(SHOUTING.replace("upper", change))
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "shouting_source", raising=False)
        found.append(build(recipe, store).documents.id)
        identities.add(canonical_json(foreign_code(recipe)))
    assert found[0] != found[1]
    assert found[0] == found[2]
    assert len(identities) == 2


def test_packages_that_decide_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"name": "a", "sources": [{"path": "a"}]}
    assert foreign_code(Recipe.model_validate(plain)) == {}
    recipe = Recipe.model_validate(plain | {"clean": {"repair": True, "languages": ["en"]}})
    before = foreign_code(recipe)
    assert sorted(before) == ["ftfy", "py3langid"]
    monkeypatch.setattr(clean, "version", lambda _name: "another")
    assert foreign_code(recipe) == dict.fromkeys(before, "another")


def test_documents_of_evaluations_are_dropped(books: Path, store: Store, tmp_path: Path) -> None:
    plain = build(reading(books), store)
    leaked = (books / "b2.txt").read_text().split("\n\n")[3]
    suite = tmp_path / "suite.jsonl"
    suite.write_text(json.dumps({"question": leaked, "half": "\ud800", "n": [1, {"a": "b"}]}))
    rules = {"paths": [str(suite)], "ngram": 10}
    built = build(reading(books, decontaminate=rules), store)
    assert rejects(built, store) == {"copy.txt": "duplicate", "b2.txt": "contaminated"}
    assert built.rejects["contaminated"] == 1
    assert str(tmp_path) not in built.documents.to_bytes().decode()
    suite.write_text(json.dumps({"question": "Something else entirely. " * 9}))
    assert build(reading(books, decontaminate=rules), store).rejects == plain.rejects
    suite.unlink()
    with pytest.raises(NotFoundError, match=r"suite\.jsonl"):
        build(reading(books, decontaminate=rules), store)


# --- tokenizers ----------------------------------------------------------------------------------


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


def test_vocabulary_too_large_keeps_finished_steps(recipe: Recipe, store: Store) -> None:
    with pytest.raises(DataError, match="vocab_size 60000 is too large"):
        build(changed(recipe, tokenizer={"vocab_size": 60_000}), store)
    assert len(list((store.root / "manifests").iterdir())) == 1


# --- bad input -----------------------------------------------------------------------------------


def test_every_bad_file_is_a_counted_reject(books: Path, store: Store) -> None:
    clean = build(reading(books), store)
    text = "A line of a text that is long enough for the rules. "
    bad = {
        "z-bytes.txt": b"caf\xe9 " * 50,
        "z-nul.txt": b"abc\0" * 100,
        "z-empty.txt": b"",
        "z-blank.txt": b"\n \n",
        "z-cut.txt.gz": gzip.compress(os.urandom(3000))[:-100],
        "z-zip.txt.zst": b"no zstandard at all",
        "z-long.txt": b"QUJD" * 10_000,
        "z-cut.parquet": b"PAR1 and nothing more PAR1",
        "z-rows.jsonl": b'{"text": null}\n{"text": 5}\n[]\n{"text": "\\ud800 half"}\nnot json\n{}\n'
        + json.dumps({"text": text * 3}).encode(),
    }
    for name, content in bad.items():
        (books / name).write_bytes(content)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), books / "z-none.parquet")
    pq.write_table(pa.table({"text": [None, text * 4]}), books / "z-null.parquet")
    built = build(reading(books), store)
    found = verdicts(built, store)
    good = verdicts(clean, store)
    assert found[: len(good)] == good, "no good document is lost"
    by_name = {name: {w for n, w in found if n == name} for name, _ in found if name > "z"}
    assert set(by_name) == {*bad, "z-none.parquet", "z-null.parquet"}
    for name, reasons in by_name.items():
        if name in ("z-rows.jsonl", "z-null.parquet"):
            assert reasons & {"train", "validation"}, name
        else:
            assert not reasons & {"train", "validation"}, name
    assert len([1 for name, _ in found if name == "z-rows.jsonl"]) == 7
    assert sum(built.rejects.values()) == sum(w in built.rejects for _, w in found)


def test_a_schema_that_does_not_fit_is_told_before_any_work(books: Path, store: Store) -> None:
    pq.write_table(pa.table({"body": ["a text"], "n": [1]}), books / "z.parquet")
    with pytest.raises(SchemaError, match=r"'z\.parquet', row 1.*'body'") as caught:
        build(reading(books), store, NoExecutor())
    assert "text: body" in caught.value.hint


def test_all_rejected_names_the_reasons(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"\0" * 99)
    (folder / "b.txt").write_text("")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "c.parquet")
    with pytest.raises(DataError, match=r"3 files \('a.txt', .*: binary 1, empty 2") as caught:
        build(reading(folder), store)
    assert caught.value.hint
    assert not list((store.root / "manifests").glob("*"))


def test_too_little_for_a_split(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        build(reading(tmp_path / "none"), store)
    (tmp_path / "one.txt").write_text("A letter that is long enough to be kept, but alone. " * 2)
    with pytest.raises(DataError, match="smaller than one validation document"):
        build(reading(tmp_path / "one.txt"), store)
    assert not list((store.root / "manifests").glob("*"))


class Vanishing:
    """An executor that starts when a file is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, work: Work, tasks: Sequence[Any], *, stays_here: bool = False) -> Iterator[Made]:
        self._path.unlink()
        return InProcess(2).run(work, tasks, stays_here=stays_here)


@pytest.mark.usefixtures("small_tasks")
def test_a_vanished_file_is_named_and_the_rest_is_kept(books: Path, store: Store) -> None:
    path = books / "b2.txt"
    with pytest.raises(NotFoundError, match=r"no such file.*b2\.txt") as caught:
        build(reading(books), store, Vanishing(path))
    assert caught.value.hint
    assert build(reading(books), store).documents.counts["files"] == 3


def test_no_room_for_what_will_be_written(
    recipe: Recipe, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(NoSpaceError):
        build(recipe, store, NoExecutor())


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_disk_that_runs_full(
    books: Path, store: Store, prose: Prose, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    old = build(reading(books), store)
    (books / "new.txt").write_text(prose(9, 60))
    expected = ids_of(build(reading(books), Store(store.root.parent / "roomy")))
    sync, n_left, n_full = os.fsync, 0, 0

    def fill(descriptor: int) -> None:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    found = None
    while found is None:
        n_left = 1 + 3 * n_full
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fill)
            try:
                found = ids_of(build(reading(books), store, InProcess(n_threads)))
            except NoSpaceError:
                n_full += 1
        assert not list(store.root.rglob("*.tmp"))
    assert n_full > 3
    assert found == expected
    for manifest in (old.documents, old.tokenizer, old.dataset):
        for entry in store.load(manifest.id).blobs:
            store.read(entry)


def test_errors_have_a_hint(tmp_path: Path, store: Store) -> None:
    (tmp_path / "a.txt").write_text("text")
    for recipe in (
        reading(tmp_path, sources=[{"path": str(tmp_path), "type": "nope"}]),
        reading(tmp_path, sources=[{"path": str(tmp_path / "*.md")}]),
    ):
        with pytest.raises(MulmError) as caught:
            build(recipe, store)
        assert caught.value.hint


def test_a_source_that_is_held_out_is_all_of_the_validation(tmp_path: Path, prose: Prose) -> None:
    folders = []
    for seed, name in enumerate(("learn", "check")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.txt").write_text(prose(seed, 400))
        folders.append(folder)
    store = Store(tmp_path / "store")
    sources: list[dict[str, Any]] = [
        {"path": str(folders[0]), "name": "learn"},
        {"path": str(folders[1]), "name": "check", "held_out": True},
    ]
    built = build(reading(folders[0], sources=sources), store)
    corpus = Corpus.of(store, built.documents)
    sides = {chunk.source: set(chunk.decisions.counts()) for chunk in corpus.chunks}
    assert sides == {"learn": {"train"}, "check": {"validation"}}
    assert built.documents.config["sources"][1]["held_out"] is True
    assert "held_out" not in built.documents.config["sources"][0], "as in versions from before"
    repeated = [sources[0], sources[1] | {"path": str(folders[0])}]
    with pytest.raises(DataError, match="no validation document is left"):
        build(reading(folders[0], sources=repeated), store)
