"""Suites ask what lm-evaluation-harness asks, and judge as it does; strangers' suites fit in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mulm.data.sources.base import SourceFile
from mulm.eval.rows import read_rows
from mulm.eval.suites.base import (
    Continuation,
    GenerationSuite,
    Likelihood,
    LikelihoodSuite,
    Metric,
    Prompt,
    Row,
    RowError,
    Suite,
)
from mulm.eval.suites.contract import violations
from mulm.eval.suites.registry import SUITES

SAMPLES = Path(__file__).parents[3] / "corpora" / "eval"

ROWS: dict[str, dict[str, Any]] = {
    "blimp": {"sentence_good": "She is here.", "sentence_bad": "She are here.", "UID": "agree"},
    "lambada": {"text": "He took the bread and ate the bread"},
    "lambada_standard": {"text": "he took the bread and ate the bread"},
    "hellaswag": {
        "ctx_a": "A man [header] Stands [title] Up  there.",
        "ctx_b": "he then",
        "activity_label": "Standing",
        "endings": ["sits [step] down.", " falls [title] Over.", "runs.", "é."],
        "label": "1",
    },
    "arc_easy": {
        "question": "What is wet?",
        "choices": {"text": ["sand", "water", "dust"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    "arc_challenge": {
        "question": "What is dry?",
        "choices": {"text": ["sand", "water"], "label": ["1", "2"]},
        "answerKey": "1",
    },
    "piqa": {"goal": "dry it", "sol1": "use a towel", "sol2": "use a hose", "label": 0},
    "gsm8k": {"question": "2 + 2?", "answer": "2 and 2 make <<2+2=4>>4.\n#### 1,004"},
}

QUESTIONS = {
    "blimp": ("", [" She is here.", " She are here."]),
    "lambada": ("He took the bread and ate the", [" bread"]),
    "lambada_standard": ("he took the bread and ate the", [" bread"]),
    "hellaswag": (
        "Standing: A man Stands. Up there. He then",
        [" sits down.", " falls. Over.", " runs.", " é."],
    ),
    "arc_easy": ("Question: What is wet?\nAnswer:", [" sand", " water", " dust"]),
    "arc_challenge": ("Question: What is dry?\nAnswer:", [" sand", " water"]),
    "piqa": ("Question: dry it\nAnswer:", [" use a towel", " use a hose"]),
}


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_keeps_the_contract(name: str) -> None:
    assert violations(SUITES[name], [ROWS[name]]) == []
    assert SUITES[name].name == name


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_those_of_the_harness(name: str) -> None:
    suite = SUITES[name]
    assert isinstance(suite, LikelihoodSuite)
    context, texts = QUESTIONS[name]
    assert list(suite.questions(ROWS[name])) == [Continuation(context, text) for text in texts]


@pytest.mark.parametrize("name", [n for n, suite in SUITES.items() if suite.sample])
def test_bundled_samples_are_good_rows(name: str) -> None:
    suite = SUITES[name]
    file = SourceFile(suite.sample, SAMPLES / suite.sample)
    rows = [row for _, row in read_rows(file, suite.columns)]
    assert 24 <= len(rows) <= 99
    assert violations(suite, rows) == []


def test_lengths_decide_the_normed_metrics() -> None:
    suite, row = SUITES["arc_easy"], ROWS["arc_easy"]
    assert isinstance(suite, LikelihoodSuite)

    def judged(*logs: float, texts: tuple[str, ...] = ("sand", "water", "dust")) -> list[float]:
        changed = row | {"choices": {"text": list(texts), "label": ["A", "B", "C"]}}
        return list(suite.measure(changed, [Likelihood(log, False) for log in logs]).values())

    assert [m.name for m in suite.metrics] == ["acc", "acc_norm", "acc_bytes"]
    assert judged(-9, -2, -9) == [1, 1, 1]
    assert judged(-4.1, -5, -9) == [0, 1, 1], "5 characters against 4"
    assert judged(-3, -5, -9, texts=("ab", "éé", "c")) == [0, 0, 1], "2 characters, 4 bytes"
    assert judged(-2, -2, -9) == [0, 0, 0] or judged(-2, -2, -9) == [0, 1, 1]
    assert judged(-2, -2, -2)[0] == 0, "the first of equals"
    assert judged(-9, -2, -9, texts=("", "b", "c")) == [1, 1, 1], "nothing is never the likeliest"


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("hellaswag", {"label": ""}, "no answer"),
        ("piqa", {"label": -1}, "answer is none of them"),
        ("arc_easy", {"answerKey": "E"}, "'E'"),
        ("arc_easy", {"choices": {"label": ["A"]}}, '"text"'),
        ("hellaswag", {"label": "7"}, "4 choices"),
        ("arc_easy", {"choices": {"text": ["a", None, "b"], "label": ["A", "B", "C"]}}, "no text"),
    ],
)
def test_a_row_without_an_item_says_why(name: str, change: dict[str, Any], told: str) -> None:
    suite = SUITES[name]
    assert isinstance(suite, LikelihoodSuite)
    with pytest.raises(RowError, match=told):
        suite.questions(ROWS[name] | change)


@pytest.mark.parametrize(
    ("answer", "flexible", "strict"),
    [
        ("It is 2 x 502 = 1004.\n#### 1004", 1, 1),
        ("#### 1,004.", 1, 1),
        ("so $1,004.", 1, 0),
        ("#### 1004 and 5 more", 0, 1),
        ("#### 1005, not 1004", 1, 0),
        ("-1004", 0, 0),
        ("none at all", 0, 0),
        ("", 0, 0),
    ],
)
def test_numbers_are_found_as_the_harness_finds_them(
    answer: str, flexible: float, strict: float
) -> None:
    suite = SUITES["gsm8k"]
    assert isinstance(suite, GenerationSuite)
    found = suite.measure(ROWS["gsm8k"], answer)
    assert found == {"exact_match_flexible": flexible, "exact_match_strict": strict}


def test_worked_examples_stand_before_the_question() -> None:
    suite = SUITES["gsm8k"]
    assert isinstance(suite, GenerationSuite)
    shot = {"question": "1 + 1?", "answer": "#### 2"}
    assert suite.prompt(ROWS["gsm8k"], [shot]) == Prompt(
        "Question: 1 + 1?\nAnswer: #### 2\n\nQuestion: 2 + 2?\nAnswer:",
        ("Question:", "</s>", "<|im_end|>"),
        256,
    )


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


def _broken(**members: Any) -> Suite:
    return type("Broken", (Opposites,), members)()


def _changing(suite: Opposites, row: Any) -> Sequence[Continuation]:
    row["word"] = "x"
    return Opposites.questions(suite, row)


@pytest.mark.parametrize(
    ("suite", "told"),
    [
        (_broken(name="Two Words"), "no name"),
        (_broken(metrics=()), "`metrics`"),
        (_broken(columns={}), "`columns`"),
        (_broken(hub="x.jsonl"), "`hub`"),
        (_broken(columns={"other": (str,)}), "'other'"),
        (_broken(questions=lambda *_: []), "gives none"),
        (_broken(questions=_changing), "changes a row"),
        (_broken(measure=lambda *_: {"acc": 1.0}), "both right and wrong"),
        (_broken(measure=lambda *_: {"acc": 0.5}), "neither 0 nor 1"),
        (_broken(measure=lambda *_: {"acc": float("nan")}), "nan"),
        (_broken(measure=lambda *_: {}), "not the metrics"),
    ],
)
def test_the_contract_finds_what_is_wrong(suite: Suite, told: str) -> None:
    row = {"word": "hot", "opposite": "cold"}
    assert violations(Opposites(), [dict(row)]) == []
    assert any(told in said for said in violations(suite, [dict(row)]))
