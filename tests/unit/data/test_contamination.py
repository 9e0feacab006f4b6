from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.contamination import REASON, Evaluations, evaluation_texts, ngram_hashes
from mulm.data.texts import Texts
from mulm.errors import DataError, NotFoundError
from tests.unit.data.test_texts import plain_words

QUESTION = "What is the boiling point of water at sea level in degrees Celsius, my friend?"
SENTENCES = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


@settings(max_examples=40)
@given(st.lists(SENTENCES, max_size=3), st.lists(SENTENCES, max_size=3))
def test_a_shared_ngram_is_found(evaluations: list[str], texts: list[str]) -> None:
    def ngrams(text: str) -> set[tuple[bytes, ...]]:
        words = plain_words(text)
        return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}

    known = set().union(*map(ngrams, evaluations))
    found = Evaluations(ngram_hashes(evaluations, 3), 3).reasons(Texts(texts))
    assert found == [REASON if ngrams(text) & known else "" for text in texts]


def test_case_and_punctuation_make_no_difference() -> None:
    evaluations = Evaluations(ngram_hashes([QUESTION], 13), 13)
    texts = Texts([f"He asked: «{QUESTION.upper()}» Yes.", QUESTION[:40] + " " + QUESTION[40:]])
    assert evaluations.reasons(texts) == [REASON, ""]
    assert pickle.loads(pickle.dumps(evaluations)).reasons(texts) == [REASON, ""]


def test_hashes_do_not_depend_on_batches() -> None:
    texts = [f"{QUESTION} {n} " * 200 for n in range(100)]
    hashes = ngram_hashes(iter(texts), 13)
    one_by_one = np.unique(np.concatenate([ngram_hashes([text], 13) for text in texts]))
    assert (hashes == one_by_one).all()
    assert len(ngram_hashes([], 13)) == 0


def test_files(tmp_path: Path) -> None:
    text, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("One.\nTwo.", encoding="utf-8")
    rows.write_text('{"q": "Why?", "n": 1, "a": ["So.", {"x": "\\ud800"}]}\n\n"Alone"\n')
    assert list(evaluation_texts(text)) == ["One.\nTwo."]
    assert list(evaluation_texts(rows)) == ["Why?", "So.", "\ud800", "Alone"]
    assert len(ngram_hashes(evaluation_texts(rows), 1)) == 4
    whole = tmp_path / "c.json"
    whole.write_text('[\n{"q": "Why?"},\n{"q": "How?"}]')
    assert list(evaluation_texts(whole)) == ["Why?", "How?"]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(evaluation_texts(tmp_path / "none.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff")
    with pytest.raises(DataError):
        list(evaluation_texts(tmp_path / "binary.txt"))
    (tmp_path / "bad.jsonl").write_text('{}\n{"a"')
    with pytest.raises(DataError, match="row 2"):
        list(evaluation_texts(tmp_path / "bad.jsonl"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.json"):
        list(evaluation_texts(tmp_path / "deep.json"))
