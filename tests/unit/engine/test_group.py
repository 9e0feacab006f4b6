from __future__ import annotations

import math
from dataclasses import replace

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeModel
from mulm.messages import GenerateRequest, SamplingParams, TokenChunk

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
