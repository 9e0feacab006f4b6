"""Preference pairs: all of them, in an order that is a function of the step alone."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mulm.chat import Message, render_training
from mulm.data import pairs
from mulm.data.build import Build, build
from mulm.data.corpus import Corpus
from mulm.data.pairs import Pair, PairLoader, pairs_of, require_pairs
from mulm.data.recipe import Recipe
from mulm.data.tokenizer import Tokenizer
from mulm.errors import CorruptError, DataError
from mulm.store import Store

LONG = 999


def built(store: Store, folder: Path, rows: list[dict[str, Any]]) -> Build:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    recipe = {
        "name": "pairs", "sources": [{"path": str(folder / "rows.jsonl"), "type": "auto"}],
        "tokenizer": {"vocab_size": 320}, "split": {"validation_fraction": 0.3},
        "clean": {"min_chars": 4},
    }  # fmt: skip
    return build(Recipe.model_validate(recipe), store)


def row(number: int) -> dict[str, Any]:
    question = f"What comes after the number {number}?" + " Say it well." * (number % 4)
    return {"prompt": question, "chosen": f"It is {number + 1}.", "rejected": "No, no."}


@pytest.fixture
def version(store: Store, tmp_path: Path) -> Build:
    return built(store, tmp_path, [row(number) for number in range(40)])


def plain(pair: Pair) -> tuple[list[int], list[int], list[int], list[int]]:
    return (
        list(pair.chosen.ids), list(pair.chosen.learned),
        list(pair.rejected.ids), list(pair.rejected.learned),
    )  # fmt: skip


def test_pairs_are_the_documents_of_each_side(store: Store, version: Build) -> None:
    corpus = Corpus.of(store, version.documents)
    whole = [row["messages"] for row in corpus.rows(range(len(corpus)), ["messages"])]
    decided = {side: corpus.decisions.are(side) for side in ("train", "validation")}
    for side, flags in decided.items():
        own = [text for text, is_own in zip(whole, flags, strict=True) if is_own]
        assert list(pairs_of(store, version.dataset, side)) == own  # type: ignore[arg-type]
        assert own


def test_a_pair_is_two_conversations_as_chat_renders_them(store: Store, version: Build) -> None:
    tokenizer = Tokenizer.from_bytes(store.read(version.dataset.blob("tokenizer.json")))
    loader = PairLoader(store, version.dataset, max_tokens=LONG)
    texts = list(pairs_of(store, version.dataset, "train"))
    found = [plain(pair) for pair in loader.batch(0, len(loader))]
    for text in texts:
        expected: list[list[int]] = []
        for turns in (json.loads(text)["chosen"], json.loads(text)["rejected"]):
            messages = [Message.model_validate(turn) for turn in turns]
            ids, learned = render_training(messages, tokenizer)
            expected += [[tokenizer.end_of_text_id, *ids], [0, *learned]]
        assert tuple(expected) in found
    assert len(found) == len(texts)


def test_pairs_that_share_an_answer_are_all_kept(store: Store, tmp_path: Path) -> None:
    rows = [row(n) | {"rejected": worse} for n in range(20) for worse in ("No.", "Maybe.")]
    version = built(store, tmp_path, [*rows, rows[3]])
    assert version.rejects == {"duplicate": 1}
    sides = [set(pairs_of(store, version.dataset, side)) for side in ("train", "validation")]
    assert len(sides[0] | sides[1]) == 40
    chosen = [{json.dumps(json.loads(text)["chosen"]) for text in side} for side in sides]
    assert not chosen[0] & chosen[1], "one answer stands on both sides of the split"


def test_turns_that_both_sides_share_are_not_learned(store: Store, tmp_path: Path) -> None:
    before = [("user", "Hello there, who are you?"), ("assistant", "I am the wizard.")]
    turns = [{"role": role, "content": said} for role, said in before]
    turns.append({"role": "user", "content": "What comes next?"})

    def ending(said: str) -> list[dict[str, str]]:
        return [*turns, {"role": "assistant", "content": said}]

    rows = [{"chosen": ending(f"It is {n}."), "rejected": ending("No.")} for n in range(20)]
    version = built(store, tmp_path, rows)
    tokenizer = Tokenizer.from_bytes(store.read(version.dataset.blob("tokenizer.json")))
    loader = PairLoader(store, version.dataset, max_tokens=LONG)
    for pair in loader.batch(0, len(loader)):
        for answer in (pair.chosen, pair.rejected):
            ids = [i for i, is_own in zip(answer.ids, answer.learned, strict=True) if is_own]
            assert tokenizer.decode(ids) in ("No.", *(f"It is {n}." for n in range(20)))


def test_each_pair_once_an_epoch_and_orders_differ(store: Store, version: Build) -> None:
    loaders = [PairLoader(store, version.dataset, max_tokens=LONG, seed=seed) for seed in (0, 1)]
    n = len(loaders[0])
    epochs = [[plain(p) for p in loader.batch(k, n)] for loader in loaders for k in (0, 1)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) == 4
    twin = PairLoader(store, version.dataset, max_tokens=LONG)
    assert [plain(p) for p in twin.batch(1, n)] == epochs[1]


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_workers_share_one_batch(store: Store, version: Build, n_workers: int) -> None:
    loader = PairLoader(store, version.dataset, max_tokens=LONG)
    for step in (0, 3, 50):
        whole = [plain(pair) for pair in loader.batch(step, 7)]
        cuts = [7 * k // n_workers for k in range(n_workers + 1)]
        parts = [loader.batch(step, 7, *own) for own in pairwise(cuts)]
        assert [plain(pair) for part in parts for pair in part] == whole
        longest = max(len(side) for pair in whole for side in pair)
        assert loader.longest(step, 7) == longest


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_validation_is_each_pair_once(store: Store, version: Build, n_workers: int) -> None:
    loader = PairLoader(store, version.dataset, "validation", max_tokens=LONG)
    shares = [loader.iter_validation(4, k, n_workers) for k in range(n_workers)]
    found = [plain(pair) for share in shares for batch in share for pair in batch]
    assert sorted(found) == sorted(plain(p) for p in loader.batch(0, len(loader)))


def test_long_pairs_are_left_out_and_counted(store: Store, version: Build) -> None:
    every = PairLoader(store, version.dataset, max_tokens=LONG)
    lengths = sorted(pair.longest for pair in every.batch(0, len(every)))
    limit = lengths[len(lengths) // 2]
    some = PairLoader(store, version.dataset, max_tokens=limit)
    assert some.n_too_long == sum(length > limit for length in lengths) > 0
    assert len(some) + some.n_too_long == len(every)
    with pytest.raises(DataError, match="no preference pairs to train on") as error:
        PairLoader(store, version.dataset, max_tokens=lengths[0] - 1)
    assert "seq_len" in error.value.hint


def test_memory_is_bounded(store: Store, version: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_HELD_BYTES", 100)
    with pytest.raises(DataError, match="MiB"):
        PairLoader(store, version.dataset, max_tokens=LONG)


def test_what_has_no_pairs_is_refused(store: Store, tmp_path: Path, version: Build) -> None:
    require_pairs(store, version.dataset)
    asked = [{"role": "user", "content": row(n)["prompt"]} for n in range(20)]
    chats = [{"messages": [turn, {"role": "assistant", "content": "Yes."}]} for turn in asked]
    without = built(store, tmp_path, chats).dataset
    for dataset in (without, without.model_copy(update={"parents": {}})):
        with pytest.raises(DataError) as error:
            require_pairs(store, dataset)
        assert "chosen" in error.value.hint
        with pytest.raises(DataError):
            PairLoader(store, dataset, max_tokens=LONG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json\n", "cannot be read"),
        (b'{"names": ["train"], "n": 3, "n_originals": 0}\n\0\0\0', "other documents"),
    ],
)
def test_damaged_decisions_are_an_error(
    store: Store, version: Build, content: bytes, message: str
) -> None:
    documents = version.documents
    others = tuple(entry for entry in documents.blobs if entry.name != "decisions.bin")
    damaged = documents.model_copy(
        update={"blobs": (*others, store.put("decisions.bin", content, 3))}
    )
    store.save(damaged)
    dataset = version.dataset.model_copy(update={"parents": {"documents": damaged.id}})
    with pytest.raises(CorruptError, match=message):
        list(pairs_of(store, dataset, "train"))
