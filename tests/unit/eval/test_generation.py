"""What is written is what plain greedy decoding writes, up to the first stop."""

from __future__ import annotations

import pytest
import torch

from mulm.engine.engine import Engine
from mulm.eval import generation
from mulm.eval.generation import TokenPrompt, Writer
from mulm.model.config import MicroLMConfig
from mulm.testing import TINY, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_model(
    config=MicroLMConfig.model_validate(
        TINY.model_dump() | {"vocab_size": TOKENIZER.vocab_size, "max_seq_len": 32}
    )
).requires_grad_(False)


@torch.no_grad()
def plainly(ids: tuple[int, ...], n: int) -> list[int]:
    """The likeliest tokens, one after another, until the text ends."""
    new: list[int] = []
    while len(new) < n:
        hidden_BTD = MODEL(torch.tensor([[*ids, *new]]))
        token = int(MODEL.logits(hidden_BTD)[0, -1].argmax())
        if token in TOKENIZER.stop_ids:
            break
        new.append(token)
    return new


def test_texts_are_those_of_plain_greedy_decoding() -> None:
    prompts = [TokenPrompt((50 + n, 60, 70 + n)[: 1 + n % 3], (), 5 + n % 3) for n in range(20)]
    told: list[tuple[int, int]] = []
    texts = Writer(MODEL, TOKENIZER).answer(prompts, lambda *done: told.append(done))
    for prompt, text in zip(prompts, texts, strict=True):
        assert text == TOKENIZER.decode(plainly(prompt.ids, prompt.max_tokens))
    assert told == [(n, 20) for n in range(1, 21)]


def test_a_text_ends_before_its_first_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = Writer(MODEL, TOKENIZER).answer([TokenPrompt((50, 51), (), 20)])
    assert len(whole) > 6
    cancelled = []
    cancel = Engine.cancel
    monkeypatch.setattr(
        Engine, "cancel", lambda engine, name: cancelled.append(name) or cancel(engine, name)
    )
    stops = (whole[5:7], whole[3:5], "nowhere")
    (cut,) = Writer(MODEL, TOKENIZER).answer([TokenPrompt((50, 51), stops, 20)])
    assert cut == whole[: min(whole.find(stop) for stop in stops[:2])]
    assert cancelled == ["0"], "no more tokens than it takes"


def test_a_long_prompt_loses_its_beginning() -> None:
    writer = Writer(MODEL, TOKENIZER)
    long = TokenPrompt(tuple(range(40, 80)), (), 8)
    assert writer.is_cut(long)
    assert not writer.is_cut(TokenPrompt(long.ids[-24:], (), 8))
    assert writer.answer([long]) == writer.answer([TokenPrompt(long.ids[-24:], (), 8)])


def test_an_answer_as_long_as_the_window_leaves_half_for_the_prompt() -> None:
    writer = Writer(MODEL, TOKENIZER, window=16)
    assert writer.max_tokens(TokenPrompt((1,), (), 256)) == 8
    assert writer.max_tokens(TokenPrompt((1,), (), 15)) == 15
    long = TokenPrompt(tuple(range(40, 80)), (), 256)
    assert writer.answer([long]) == writer.answer([TokenPrompt(long.ids[-8:], (), 8)])


def test_more_prompts_than_slots_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [TokenPrompt((45 + n,), (), 2) for n in range(7)]
    expected = Writer(MODEL, TOKENIZER).answer(prompts)
    monkeypatch.setattr(generation, "_N_SLOTS", 2)
    assert Writer(MODEL, TOKENIZER).answer(prompts) == expected
    assert Writer(MODEL, TOKENIZER).answer([]) == []
