"""Guessed or not, every answer is the same; and guessing stops where it does not pay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.lookup import PromptLookup
from mulm.engine.step_cost import StepCost
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM

REPEATING = (1, 2, 3, 4, 5) * 6


class EchoModel(FakeModel):
    """Likes to say again what followed the newest token before, so that guesses come true."""

    def logits(self, hidden_RD):
        logits_RV = super().logits(hidden_RD)
        liked = (hidden_RD[:, 0].long() % 3 == 0).tolist()
        for row, is_liked in enumerate(liked):
            if is_liked:
                logits_RV[row, 7] += 20.0
        return logits_RV


def fresh(n_guesses: int = 4, **options) -> Engine:
    model = EchoModel(FakeConfig(vocab_size=12, max_seq_len=200))
    return Engine(model, **({"n_slots": 3, "n_guesses": n_guesses, "seed": 1} | options))


def request(name="a", prompt=REPEATING, n=1, **sampling) -> GenerateRequest:
    options = {"max_tokens": 60, "temperature": 0.0} | sampling
    return GenerateRequest(name, prompt, SamplingParams(**options), n=n)


VARIETY = [
    request("greedy"),
    request("sampled", temperature=0.7, seed=3),
    request("cut", temperature=1.0, seed=4, top_k=3, top_p=0.9),
    request("two", temperature=0.8, seed=5, n=2),
    request("told", temperature=0.5, seed=6, logprobs=2),
    request("stopped", temperature=0.9, seed=7, stop_token_ids=(3,)),
    request("late", temperature=0.9, seed=8, stop_token_ids=(7,), min_tokens=20),
    request("punished", temperature=0.9, seed=9, presence_penalty=0.5),
    request("short", max_tokens=2),
]


@pytest.mark.parametrize("n_guesses", [1, 3, 8])
def test_answers_are_those_without_guesses(n_guesses):
    plain = fresh(0).generate_all(VARIETY)
    engine = fresh(n_guesses)
    assert engine.generate_all(VARIETY) == plain
    assert engine.stats().n_guessed > 0
    engine.check_integrity()
    assert engine.stats().n_free_pages == engine.n_pages


def test_guesses_that_come_true_save_steps():
    engines = [fresh(n, n_slots=1) for n in (0, 6)]
    model = engines[1]._runner.model
    one = request("a", max_tokens=150)
    plain, guessed = (engine.generate([one])["a"].token_ids for engine in engines)
    assert plain == guessed
    assert engines[1].stats().n_guessed_true > 0
    assert len(model.batches) < len(engines[0]._runner.model.batches)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_lives_end_as_without_guesses(data):
    n_pages = data.draw(st.integers(14, 30))
    names = iter(range(1000))
    requests, engines = [], [fresh(0, n_pages=n_pages), fresh(5, n_pages=n_pages)]
    told: list[dict] = [{}, {}]
    for action in data.draw(
        st.lists(st.sampled_from(["add", "step", "cancel", "swap"]), max_size=40)
    ):
        if action == "add" and len(requests) < 6:
            length = data.draw(st.integers(1, 40))
            one = request(f"r{next(names)}", REPEATING[:length] if length <= 30 else (4,) * length,
                          temperature=0.8, seed=length)  # fmt: skip
            requests.append(one)
            for engine in engines:
                engine.add(one)
        elif action == "cancel" and requests:
            gone = data.draw(st.sampled_from(requests)).request_id
            for number, engine in enumerate(engines):
                engine.cancel(gone)
                told[number][gone] = None
        elif action == "swap":
            for engine in engines:
                engine.swap(engine._runner.model)
        else:
            for number, engine in enumerate(engines):
                take(engine, told[number])
    for number, engine in enumerate(engines):
        while engine.n_unfinished:
            take(engine, told[number])
        assert engine.stats().n_free_pages == n_pages
    for name, ids in told[0].items():
        if ids is not None and told[1][name] is not None:
            assert told[1][name] == ids


def take(engine: Engine, told: dict) -> None:
    for chunk in engine.step():
        if told.get(chunk.request_id, ()) is not None:
            told[chunk.request_id] = (*told.get(chunk.request_id, ()), *chunk.token_ids)
    engine.check_integrity()


def test_what_is_never_right_is_soon_left_alone():
    model = FakeModel(FakeConfig(vocab_size=12, max_seq_len=900))
    engine = Engine(model, 1, n_guesses=4, seed=1)
    engine.generate([request("a", max_tokens=600, temperature=1.0, seed=2)])
    stats = engine.stats()
    assert stats.n_guessed < 0.5 * stats.generated_tokens
    assert stats.n_guessed_true < 0.5 * stats.n_guessed


@pytest.fixture(scope="module")
def model() -> MicroLM:
    torch.manual_seed(0)
    config = MicroLMConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1,
                           d_head=16, d_ff=64, max_seq_len=256, qk_norm=False)  # fmt: skip
    return MicroLM(config).eval()


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_real_model_answers_the_same(model, temperature):
    several = [request(f"r{n}", REPEATING[n:], temperature=temperature, seed=n) for n in range(3)]
    plain = Engine(model, 3).generate_all(several)
    guessed = Engine(model, 3, n_guesses=4)
    answers = guessed.generate_all(several)
    assert guessed.stats().n_guessed > 0
    for name, choices in plain.items():
        assert answers[name][0].token_ids == choices[0].token_ids


def test_lookup_finds_what_followed_the_newest_place_like_this():
    lookup = PromptLookup()
    assert lookup.guess([1, 2, 3, 9, 1, 2, 3], 2) == (9, 1)
    assert lookup.guess([1, 2, 3, 9, 1, 2, 3, 8, 2, 3], 3) == (8, 2, 3)
    assert lookup.guess([1, 2, 3, 9, 1, 2, 3, 8, 2, 3, 5], 3) == ()
    assert PromptLookup().guess([1], 3) == ()
    assert PromptLookup().guess([], 3) == ()
    assert PromptLookup().guess([4, 4, 4], 3) == (4,)


def test_lookup_grown_equals_lookup_at_once():
    text = [3, 1, 3, 1, 2, 3, 1, 2, 3, 1, 3]
    grown = PromptLookup()
    for end in range(1, len(text) + 1):
        assert grown.guess(text[:end], 4) == PromptLookup().guess(text[:end], 4)


def test_costs_are_a_line_through_what_was_seen():
    cost = StepCost()
    assert cost.seconds(4) is None
    for n_rows in (1, 4, 8, 2) * 9:
        cost.learn(n_rows, 0.010 + 0.001 * n_rows)
    assert cost.seconds(16) == pytest.approx(0.026, rel=1e-6)
    assert cost.pays(1, 4, 2.0)
    assert not cost.pays(1, 4, 0.1)
    flat = all_alike()
    assert flat.seconds(9) is None
    assert flat.pays(8, 32, 0.0), "tried, since nothing is known"


def all_alike() -> StepCost:
    cost = StepCost()
    for _ in range(50):
        cost.learn(8, 0.01)
    return cost
