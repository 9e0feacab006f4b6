"""Batched answers are those of each question alone, and of the plain computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.errors import ConfigError, TrainingDivergedError
from mulm.eval.encoding import TokenQuestion
from mulm.eval.likelihood import Scorer
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.testing import tiny_model

MODEL = tiny_model().requires_grad_(False)
IDS = st.lists(st.integers(0, 63), min_size=1, max_size=40).map(tuple)
QUESTIONS = st.lists(st.builds(TokenQuestion, IDS, IDS), min_size=1, max_size=9)


@torch.no_grad()
def plainly(question: TokenQuestion, model: MicroLM = MODEL, window: int = 64) -> tuple[Any, Any]:
    """One question, one row, all logits, as the harness has it."""
    ids = (question.context_ids + question.target_ids)[-(window + 1) :]
    logits_TV = model.logits(model(torch.tensor([ids[:-1]])))[0]
    n = min(len(question.target_ids), len(ids) - 1)
    logs_NV, targets_N = logits_TV.log_softmax(-1)[-n:], torch.tensor(ids[-n:])
    chosen = logs_NV.gather(1, targets_N[:, None]).sum()
    return pytest.approx(float(chosen), abs=1e-4), bool((logs_NV.argmax(-1) == targets_N).all())


@settings(max_examples=12)
@given(QUESTIONS, st.sampled_from([1, 40, 300, 5000]))
def test_batches_change_nothing(questions: list[TokenQuestion], batch_tokens: int) -> None:
    answers = Scorer(MODEL, batch_tokens=batch_tokens).answer(questions)
    for question, answer in zip(questions, answers, strict=True):
        (alone,) = Scorer(MODEL).answer([question])
        assert answer.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-6, abs=1e-5)
        assert answer.is_greedy == alone.is_greedy
        assert (answer.log_likelihood, answer.is_greedy) == plainly(question)


@settings(max_examples=10)
@given(QUESTIONS, st.integers(2, 24))
def test_a_long_question_loses_its_beginning(questions: list[TokenQuestion], window: int) -> None:
    scorer = Scorer(MODEL, window=window, batch_tokens=100)
    for question, answer in zip(questions, scorer.answer(questions), strict=True):
        assert (answer.log_likelihood, answer.is_greedy) == plainly(question, window=window)
        n_ids = len(question.context_ids) + len(question.target_ids)
        assert scorer.is_cut(question) == (n_ids > window + 1)


def test_the_greedy_answer_is_known_as_such() -> None:
    context = (5, 9, 2)
    likeliest = int(MODEL.logits(MODEL(torch.tensor([context])))[0, -1].argmax())
    questions = [TokenQuestion(context, (token,)) for token in range(64)]
    answers = Scorer(MODEL).answer(questions)
    assert [n for n, answer in enumerate(answers) if answer.is_greedy] == [likeliest]
    logs = torch.tensor([answer.log_likelihood for answer in answers])
    assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert int(logs.argmax()) == likeliest


def shapes_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes = []
    forward = MicroLM.forward

    def noted(model: MicroLM, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(tuple(ids_BT.shape))
        return forward(model, ids_BT, *rest)

    monkeypatch.setattr(MicroLM, "forward", noted)
    return shapes


def test_batches_have_few_widths_and_little_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = shapes_of(monkeypatch)
    lengths = [2 + n % 60 for n in range(240)]
    questions = [TokenQuestion((1,) * (n - 1), (2,)) for n in lengths]
    told: list[tuple[int, int]] = []
    Scorer(MODEL, batch_tokens=512).answer(questions, lambda *done: told.append(done))
    widths = [width for _, width in shapes]
    assert sorted(widths, reverse=True) == widths, "the longest first"
    assert len(set(widths)) <= 9
    assert all(rows * width <= 512 for rows, width in shapes)
    long = [(rows, width) for rows, width in shapes if width > 16]
    n_read = sum(n - 1 for n in lengths if n - 1 > 16)
    assert sum(rows * width for rows, width in long) < 1.15 * n_read
    assert told[-1] == (240, 240)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [TokenQuestion((1, n), (2, 3)) for n in range(30)]
    expected = Scorer(MODEL).answer(questions)
    forward = MicroLM.forward

    def small(model: MicroLM, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(ids_BT) > 4:
            raise torch.OutOfMemoryError
        return forward(model, ids_BT, *rest)

    monkeypatch.setattr(MicroLM, "forward", small)
    found = Scorer(MODEL).answer(questions)
    pairs = zip(found, expected, strict=True)
    assert all(a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-5) for a, b in pairs)
    monkeypatch.setattr(
        MicroLM, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(MODEL).answer(questions)


def test_a_quantised_model_is_asked_with_the_numbers_that_it_serves() -> None:
    quantised = QuantizedMicroLM.of(MODEL, Quantization(linear="int8", embedding="int8"))
    question = TokenQuestion((5, 9, 2), (7, 8, 9))
    (answer,) = Scorer(quantised).answer([question])
    assert (answer.log_likelihood, answer.is_greedy) == plainly(question, quantised)
    (whole,) = Scorer(MODEL).answer([question])
    assert answer.log_likelihood != whole.log_likelihood


def test_bf16_is_close() -> None:
    question = TokenQuestion((5, 9, 2), (7, 8, 9))
    (rounded,) = Scorer(MODEL, torch.bfloat16).answer([question])
    (exact,) = Scorer(MODEL).answer([question])
    assert rounded.log_likelihood == pytest.approx(exact.log_likelihood, rel=0.05)


def test_a_model_without_finite_numbers_says_so() -> None:
    model = tiny_model().requires_grad_(False)
    model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError):
        Scorer(model).answer([TokenQuestion((1,), (2,))])


def test_a_window_beyond_the_models_is_refused() -> None:
    with pytest.raises(ConfigError, match="65"):
        Scorer(MODEL, window=65)
    assert Scorer(MODEL).answer([]) == []
