from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeModel
from mulm.messages import GenerateRequest, SamplingParams, TokenChunk, join_chunks

SAMPLING = SamplingParams(max_tokens=9, temperature=1.0, seed=3, stop_token_ids=(4, 5, 6))
REQUEST = GenerateRequest("r", tuple(range(40)), SAMPLING)


def answers(request: GenerateRequest) -> list[TokenChunk]:
    return Engine(FakeModel(), n_slots=3).generate_all([request])["r"]


def mean(chunk: TokenChunk) -> float:
    if not chunk.logprobs:
        return -math.inf
    return sum(x.logprob for x in chunk.logprobs) / len(chunk.logprobs)


def test_choices_differ_and_do_not_depend_on_how_many_there_are():
    five = answers(replace(REQUEST, n=5))
    assert [chunk.index for chunk in five] == list(range(5))
    assert len({chunk.token_ids for chunk in five}) == 5
    two = answers(replace(REQUEST, n=2))
    assert [chunk.token_ids for chunk in two] == [chunk.token_ids for chunk in five[:2]]


def test_choices_share_what_the_prompt_computed():
    model = FakeModel()
    Engine(model, n_slots=3).generate_all([replace(REQUEST, n=3)])
    assert sum(map(sum, model.batches)) < 2 * len(REQUEST.prompt_ids) + 3 * SAMPLING.max_tokens


def test_the_best_come_first_and_at_the_end():
    told = replace(SAMPLING, logprobs=0)
    every = sorted(answers(replace(REQUEST, n=6, sampling=told)), key=mean, reverse=True)
    best = answers(replace(REQUEST, n=2, best_of=6, sampling=told))
    assert [chunk.index for chunk in best] == [0, 1]
    assert [chunk.token_ids for chunk in best] == [chunk.token_ids for chunk in every[:2]]
    assert [mean(chunk) for chunk in best] == [mean(chunk) for chunk in every[:2]]


def test_logprobs_that_only_chose_are_not_told():
    assert all(chunk.logprobs == () for chunk in answers(replace(REQUEST, n=2, best_of=6)))


def test_nothing_is_told_before_all_have_ended():
    engine = Engine(FakeModel(), n_slots=8)
    engine.add(replace(REQUEST, n=1, best_of=4))
    while engine.n_unfinished:
        chunks = engine.step()
        assert not chunks or not engine.n_unfinished
    assert {chunk.index for chunk in chunks} == {0}


@pytest.mark.parametrize("n_steps", [1, 5, 9, 12])
def test_at_the_deadline_the_best_so_far_are_told(n_steps):
    """Some have ended, some go on, and some have said nothing yet."""
    told = replace(REQUEST, sampling=replace(SAMPLING, logprobs=0), deadline_s=float(n_steps))
    clock = Clock()
    each = Engine(FakeModel(), n_slots=6, clock=clock)
    each.add(replace(told, n=6))
    parts: dict[int, list[TokenChunk]] = {index: [] for index in range(6)}
    while each.n_unfinished:
        for chunk in each.step():
            parts[chunk.index].append(chunk)
        clock.now_s += 1
    every = [join_chunks(chunks) for chunks in parts.values()]
    assert {chunk.finish_reason for chunk in every} <= {"deadline", "stop", "length"}
    wanted = sorted(every, key=mean, reverse=True)[:2]

    clock.now_s = 0.0
    engine = Engine(FakeModel(), n_slots=6, clock=clock)
    engine.add(replace(told, n=2, best_of=6))
    found: dict[int, list[TokenChunk]] = {0: [], 1: []}
    while engine.n_unfinished:
        for chunk in engine.step():
            found[chunk.index].append(chunk)
        clock.now_s += 1
    assert engine.stats().n_free_pages == engine.stats().n_pages
    for chunks, best in zip(found.values(), wanted, strict=True):
        assert replace(join_chunks(chunks), index=best.index) == best
    if n_steps < 9:
        assert "deadline" in {chunk.finish_reason for chunk in every}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
