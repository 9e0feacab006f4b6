"""A suite's scores: every row counts once, and a bad one is named before the model is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mulm.config import parse_config
from mulm.data.sources.base import SourceFile
from mulm.errors import SchemaError
from mulm.eval.config import EvaluateConfig
from mulm.eval.encoding import Encoder
from mulm.eval.intervals import perplexity, wilson
from mulm.eval.likelihood import Scorer
from mulm.eval.scoring import Student, score_suite
from mulm.eval.suite_data import SuiteFiles
from mulm.eval.suites.base import Continuation, Likelihood, LikelihoodSuite, Metric, Row
from mulm.eval.suites.contract import violations
from mulm.eval.suites.registry import SUITES
from mulm.model.config import MicroLMConfig
from mulm.testing import TINY, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SHAPE = TINY.model_dump() | {"vocab_size": TOKENIZER.vocab_size}
STUDENT = Student(tiny_model(config=MicroLMConfig.model_validate(SHAPE)), TOKENIZER)
PAIRS = [
    {"sentence_good": f"The wizard is {n}.", "sentence_bad": f"Wizard {n} the is.", "UID": group}
    for n, group in enumerate("aabbbc")
]


def files(tmp_path: Path, *rows: list[dict[str, Any]]) -> SuiteFiles:
    found = []
    for number, of_file in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in of_file))
        found.append(SourceFile(path.name, path))
    return SuiteFiles("file", tuple(found))


def config(**values: object) -> EvaluateConfig:
    return parse_config(EvaluateConfig, {"model": "demo", **values})


def test_scores_are_the_means_of_the_items(tmp_path: Path) -> None:
    suite = SUITES["blimp"]
    assert isinstance(suite, LikelihoodSuite)
    told: list[tuple[int, int]] = []
    found = score_suite(
        suite,
        files(tmp_path, PAIRS[:4], PAIRS[4:]),
        STUDENT,
        config(),
        lambda *done: told.append(done),
    )
    encoder, scorer = Encoder(TOKENIZER), Scorer(STUDENT.model)
    rights = []
    for row in PAIRS:
        asked = [encoder.question(question) for question in suite.questions(row)]
        good, bad = scorer.answer(asked)
        rights.append(float(good.log_likelihood >= bad.log_likelihood))
    acc = found["metrics"]["acc"]
    assert acc["score"] == pytest.approx(sum(rights) / 6)
    assert acc["interval"] == list(wilson(sum(rights), 6))
    assert (found["n"], found["cut"], found["origin"]) == (6, 0, "file")
    assert found["files"] == ["0.jsonl", "1.jsonl"]
    assert [len(sha) for sha in found["items"]] == [64, 64]
    groups = {"a": rights[:2], "b": rights[2:5], "c": rights[5:]}
    means = {name: sum(values) / len(values) for name, values in groups.items()}
    assert found["groups"] == {name: {"n": len(groups[name]), "acc": means[name]} for name in "abc"}
    assert found["mean_of_groups"]["acc"] == pytest.approx(sum(means.values()) / 3)
    assert told[-1] == (12, 12)
    json.dumps(found, allow_nan=False)


def test_a_limit_counts_for_each_group(tmp_path: Path) -> None:
    found = score_suite(SUITES["blimp"], files(tmp_path, PAIRS), STUDENT, config(limit=2))
    assert {name: group["n"] for name, group in found["groups"].items()} == {"a": 2, "b": 2, "c": 1}


def test_perplexity_and_what_is_cut(tmp_path: Path) -> None:
    rows = [{"text": "Hello there, how are you?"}, {"text": "the wizard " * 40 + "isn't here"}]
    suite = SUITES["lambada"]
    assert isinstance(suite, LikelihoodSuite)
    found = score_suite(suite, files(tmp_path, rows), STUDENT, config())
    assert (found["cut"], "groups" in found) == (1, False)
    questions = [Encoder(TOKENIZER).question(suite.questions(row)[0]) for row in rows]
    logs = [answer.log_likelihood for answer in Scorer(STUDENT.model).answer(questions)]
    assert found["metrics"]["perplexity"]["score"] == pytest.approx(perplexity(logs))
    shorter = score_suite(suite, files(tmp_path, rows), STUDENT, config(seq_len=4))
    assert shorter["cut"] == 2
    assert shorter["metrics"] != found["metrics"]


def test_documents_may_begin_every_context(tmp_path: Path) -> None:
    found = [
        score_suite(
            SUITES["lambada"],
            files(tmp_path, [{"text": "Hello there"}]),
            STUDENT,
            config(add_bos=add_bos),
        )["metrics"]["perplexity"]["score"]
        for add_bos in (None, False, True)
    ]
    assert found[0] == found[1] != found[2]


def test_problems_are_written_out_and_judged(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(9)]
    items = files(tmp_path, rows)
    found = score_suite(SUITES["gsm8k"], items, STUDENT, config(limit=3))
    assert (found["n"], found["cut"]) == (3, 3)
    assert set(found["metrics"]) == {"exact_match_flexible", "exact_match_strict"}
    alone = score_suite(SUITES["gsm8k"], items, STUDENT, config(limit=1, shots=0))
    assert alone["n"] == 1
    apart = SuiteFiles("file", items.items, items.items)
    assert score_suite(SUITES["gsm8k"], apart, STUDENT, config(limit=3))["n"] == 3


def test_a_bad_row_is_named_before_the_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scorer, "answer", lambda *_: pytest.fail("the model was asked"))
    good = {"goal": "x", "sol1": "a", "sol2": "b", "label": 1}
    bad = files(tmp_path, [good, good | {"label": -1}])
    with pytest.raises(SchemaError, match=r"'0\.jsonl', row 2: has 2 choices"):
        score_suite(SUITES["piqa"], bad, STUDENT, config())
    with pytest.raises(SchemaError, match="row 1: has no column 'sentence_good'"):
        score_suite(SUITES["blimp"], bad, STUDENT, config())
    assert SUITES["piqa"].group(good) == ""


class Opposites(LikelihoodSuite):
    """A suite as a stranger writes it."""

    name = "opposites"
    metrics = (Metric("acc"),)
    columns = {"word": (str,), "opposite": (str,)}
    hub = "hf://datasets/someone/opposites"

    def questions(self, row: Row) -> Sequence[Continuation]:
        return [Continuation(f"The opposite of {row['word']} is", f" {row['opposite']}")]

    def measure(self, row: Row, answers: Sequence[Likelihood]) -> Mapping[str, float]:
        return {"acc": float(answers[0].is_greedy)}


def test_a_strangers_suite_is_scored_like_ours(tmp_path: Path) -> None:
    rows = [{"word": "hot", "opposite": "cold"}, {"word": "up", "opposite": "down"}]
    assert violations(Opposites(), rows) == []
    found = score_suite(Opposites(), files(tmp_path, rows), STUDENT, config())
    assert found["n"] == 2
    assert found["metrics"]["acc"]["score"] in (0, 0.5, 1)
