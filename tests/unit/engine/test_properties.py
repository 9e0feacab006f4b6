"""Random lives of an engine: whatever arrives, leaves or runs out, answers stay what they are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.messages import GenerateRequest, SamplingParams

CONFIG = FakeConfig(vocab_size=50, max_seq_len=96)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def fresh(salt: int = 0, **options) -> Engine:
    return Engine(FakeModel(CONFIG, salt), **options)


prompts = st.one_of(
    st.lists(st.integers(0, 49), min_size=1, max_size=60),
    st.integers(1, 60).map(lambda n: [7] * n),  # so that prefixes are found again
)
requests = st.builds(
    dict,
    prompt=prompts,
    max_tokens=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 1.0]),
    n=st.integers(1, 3),
    deadline_s=st.sampled_from([1e9, 15.0]),
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), requests),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("swap"), st.none()),
    ),
    min_size=1,
    max_size=25,
)


def made(number: int, facts: dict) -> GenerateRequest:
    sampling = SamplingParams(facts["max_tokens"], facts["temperature"], seed=number)
    return GenerateRequest(
        f"r{number}", tuple(facts["prompt"]), sampling, facts["deadline_s"], n=facts["n"]
    )


@settings(max_examples=120, deadline=None)
@given(
    actions=actions,
    n_slots=st.integers(1, 4),
    n_pages=st.integers(6, 14),
    prefill_tokens=st.sampled_from([5, 16, 200]),
)
def test_random_lives(actions, n_slots, n_pages, prefill_tokens):
    clock = Clock()
    engine = fresh(n_slots=n_slots, n_pages=n_pages, prefill_tokens=prefill_tokens, clock=clock)
    asked: dict[str, GenerateRequest] = {}
    answers: dict[tuple[str, int], tuple[int, ...]] = {}
    ends: dict[tuple[str, int], str] = {}
    cancelled: set[str] = set()

    def step() -> None:
        clock.now_s += 1
        for chunk in engine.step():
            key = (chunk.request_id, chunk.index)
            assert key not in ends, "a choice goes on after its end"
            answers[key] = answers.get(key, ()) + chunk.token_ids
            if chunk.finish_reason:
                ends[key] = chunk.finish_reason
        engine.check_integrity()

    for action, value in actions:
        if action == "add":
            request = made(len(asked), value)
            asked[request.request_id] = request
            engine.add(request)
        elif action == "cancel" and engine.cancel(f"r{value}"):
            cancelled.add(f"r{value}")
        elif action == "swap":
            engine.swap(FakeModel(CONFIG))  # the same weights: answers stay the same
        elif action == "step":
            for _ in range(value):
                step()
        engine.check_integrity()
    for _ in range(4000):
        if not engine.n_unfinished:
            break
        step()

    stats = engine.stats()
    assert (stats.n_running, stats.n_waiting, stats.waiting_tokens) == (0, 0, 0)
    assert stats.n_free_pages == stats.n_pages
    for name, request in asked.items():
        alone = fresh(n_slots=1).generate_all([request])[name]
        for index in range(request.n):
            key = (name, index)
            if name in cancelled:
                assert alone[index].token_ids[: len(answers.get(key, ()))] == answers.get(key, ())
                continue
            if ends[key] == "deadline":
                assert alone[index].token_ids[: len(answers[key])] == answers[key]
            else:
                assert (answers[key], ends[key]) == (
                    alone[index].token_ids,
                    alone[index].finish_reason,
                )
