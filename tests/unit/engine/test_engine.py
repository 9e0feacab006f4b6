from __future__ import annotations

import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.errors import ConfigError, ConflictError, ContextLengthError, OverloadedError
from mulm.messages import GenerateRequest, SamplingParams


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def engine(model: FakeModel | None = None, **options) -> Engine:
    return Engine(model or FakeModel(), **{"n_slots": 3, **options})


def request(
    name: str, prompt=(1, 2, 3), max_tokens=6, temperature=0.0, deadline_s=600.0, **sampling
) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, **sampling)
    return GenerateRequest(name, tuple(prompt), params, deadline_s)


def alone(one: GenerateRequest, **options):
    return engine(**options).generate([one])[one.request_id]


MIXED = [
    request("greedy", (1, 2)),
    request("seeded", (3,), temperature=1.0, seed=7),
    request("top_k", (4, 5, 6), temperature=1.5, top_k=4, seed=1),
    request("top_p", (7,) * 9, temperature=0.7, top_p=0.6, seed=2, max_tokens=11),
    request("late comer", (8, 9), temperature=1.0, seed=7),
]


def test_a_batch_gives_what_each_request_gives_alone():
    together = engine().generate(MIXED)
    assert together == {one.request_id: alone(one) for one in MIXED}


@pytest.mark.parametrize("prefill_tokens", [1, 2, 5, 256])
def test_chunked_prefill_equals_whole(prefill_tokens):
    assert engine(prefill_tokens=prefill_tokens).generate(MIXED) == engine().generate(MIXED)


def test_a_long_prompt_does_not_stall_running_streams():
    model = FakeModel(FakeConfig(max_seq_len=200))
    under_test = engine(model, prefill_tokens=8)
    under_test.add(request("stream", max_tokens=40))
    under_test.step()
    under_test.add(request("long", (1,) * 80))
    for _ in range(10):
        assert next(c.request_id for c in under_test.step()) == "stream"
    assert max(max(sizes, default=0) for sizes in model.batches) == 8


def test_stop_tokens_end_the_sequence_and_are_not_returned():
    whole = alone(request("a", max_tokens=8)).token_ids
    stopped = alone(request("a", max_tokens=8, stop_token_ids=(whole[3],)))
    assert stopped.token_ids == whole[: whole.index(whole[3])]
    assert stopped.finish_reason == "stop"


def test_max_tokens_is_exact():
    answer = alone(request("a", max_tokens=5))
    assert (len(answer.token_ids), answer.finish_reason) == (5, "length")


def test_waiting_requests_are_served_in_order_of_arrival():
    under_test = engine(n_slots=1)
    for name in "abc":
        under_test.add(request(name, max_tokens=2))
    first_tokens = [c.request_id for _ in range(6) for c in under_test.step()]
    assert first_tokens == ["a", "a", "b", "b", "c", "c"]


def test_cancel_frees_the_slot_at_once():
    under_test = engine(n_slots=1)
    under_test.add(request("a"))
    under_test.add(request("b"))
    under_test.step()
    assert under_test.cancel("a")
    under_test.check_integrity()
    assert under_test.n_running == 0
    assert not under_test.cancel("a")
    assert {c.request_id for c in under_test.step()} == {"b"}


def test_a_waiting_request_can_be_cancelled():
    under_test = engine(n_slots=1)
    under_test.add(request("a"))
    under_test.add(request("b"))
    assert under_test.cancel("b")
    under_test.check_integrity()
    assert under_test.n_unfinished == 1


def test_a_reused_slot_remembers_nothing():
    under_test = engine(n_slots=1)
    under_test.generate([request("long", (9,) * 20)])
    assert under_test.generate([request("a")])["a"] == alone(request("a"))


def test_the_waiting_line_is_bounded():
    under_test = engine(n_slots=1, max_waiting=1)
    under_test.add(request("a"))
    under_test.add(request("b"))
    with pytest.raises(OverloadedError):
        under_test.add(request("c"))
    under_test.check_integrity()


def test_generate_feeds_more_requests_than_the_line_holds():
    requests = [request(f"r{i}", (i + 1,)) for i in range(9)]
    assert len(engine(n_slots=2, max_waiting=1).generate(requests)) == 9


@pytest.mark.parametrize("started", [True, False])
def test_a_deadline_ends_a_request(started):
    clock = Clock()
    under_test = engine(n_slots=1, clock=clock)
    if not started:
        under_test.add(request("first"))
    under_test.add(request("a", deadline_s=5.0))
    under_test.step()
    clock.now_s = 5.0
    ended = {c.request_id: c.finish_reason for c in under_test.step() if c.finish_reason}
    assert ended == {"a": "deadline"}
    under_test.check_integrity()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (request("x", (1,) * 60, max_tokens=5), ContextLengthError),
        (request("x", ()), ConfigError),
        (request("x", max_tokens=0), ConfigError),
        (request("x", (50,)), ConfigError),
        (request("x", (-1,)), ConfigError),
        (request("known"), ConflictError),
    ],
)
def test_impossible_requests_are_refused_before_they_take_anything(bad, error):
    under_test = engine()
    under_test.add(request("known"))
    with pytest.raises(error):
        under_test.add(bad)
    under_test.check_integrity()
    assert under_test.n_unfinished == 1


def test_the_whole_window_can_be_used():
    answer = alone(request("x", (1,) * 60, max_tokens=4))
    assert len(answer.token_ids) == 4


def test_requests_without_a_seed_differ_and_follow_the_engines_seed():
    twins = [request(name, temperature=1.0) for name in "ab"]
    first = engine(seed=1).generate(twins)
    assert first["a"].token_ids != first["b"].token_ids
    assert engine(seed=1).generate(twins) == first


def test_an_empty_step_is_harmless():
    assert engine().step() == []
