"""Guesses beside all that requests can ask for: the very tokens of plain decoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.draft_model import DraftModel
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.grammar import Grammars
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Proposer, Speculation
from mulm.messages import GenerateRequest, Grammar, SamplingParams, TokenChunk
from mulm.testing import tiny_tokenizer

pytest.importorskip("llguidance")
TOKENIZER = tiny_tokenizer()
GRAMMARS = Grammars(TOKENIZER)
CONFIG = FakeConfig(TOKENIZER.vocab_size + 8, 96)  # as a model that was padded
Answers = dict[str, list[TokenChunk]]

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}
HELD = [
    Grammar("json_schema", json.dumps(SCHEMA)),
    Grammar("regex", "[a-f]{2,30}"),
    Grammar("regex", ".*"),
    Grammar("choice", '["yes, yes, yes", "yes, no", "no"]'),
    Grammar("ebnf", 'root ::= "a" item* "."\nitem ::= [0-9] | "b"\n'),
    Grammar("choice", '["abc", "bcd"]', after="<"),
]


class Oracle:
    """Knows the answers, and lies now and then."""

    def __init__(self, answers: Answers, lies: float = 0.0) -> None:
        self.answers, self.lies, self.random = answers, lies, Random(0)

    def start(self, n_slots: int, max_seq_len: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def propose(self, sequences, counts) -> list[list[int]]:
        return [self.guesses(s, n) for s, n in zip(sequences, counts, strict=True)]

    def guesses(self, sequence, n: int) -> list[int]:
        choices = self.answers.get(sequence.request.request_id, [])
        right = choices[sequence.index].token_ids if sequence.index < len(choices) else ()
        padded = (*right[sequence.n_generated :], *self.noise(n))[:n]
        return [
            self.noise(1)[0] if self.random.random() < self.lies else token_id
            for token_id in padded
        ]

    def noise(self, n: int) -> list[int]:
        return [self.random.randrange(self.vocab_size) for _ in range(n)]


def fake(salt: int = 0) -> FakeModel:
    return FakeModel(CONFIG, salt)


def engine(proposer: Proposer | None, **options: Any) -> Engine:
    """Guesses always, as nothing takes time by its clock."""
    speculation = None if proposer is None else Speculation(proposer)
    return Engine(
        fake(), tokenizer=TOKENIZER, speculation=speculation, clock=lambda: 0.0,
        make_constraint=GRAMMARS.compile, **options,
    )  # fmt: skip


PROPOSERS: dict[str, Callable[[Answers], Proposer]] = {
    "noise": lambda _: Oracle({}),
    "right": Oracle,
    "mostly right": lambda answers: Oracle(answers, 0.2),
    "lookup": lambda _: PromptLookup(),
    "itself": lambda _: DraftModel(fake()),
    "another": lambda _: DraftModel(fake(salt=9)),
    "few windows": lambda _: DraftModel(fake(), kv_bytes=1),
}


def text(chunks: list[TokenChunk]) -> list[tuple[object, ...]]:
    """What a client sees; where prefixes were found depends on who ran beside."""
    return [(c.index, c.token_ids, c.finish_reason, c.logprobs, c.prompt_logprobs) for c in chunks]


def request(name: str, prompt=(40, 41, 42), max_tokens: int = 30, **sampling: Any):
    params = {"temperature": 1.0, "seed": 5, "stop_token_ids": TOKENIZER.stop_ids} | sampling
    return GenerateRequest(name, tuple(prompt), SamplingParams(max_tokens, **params))


ids = st.integers(0, CONFIG.vocab_size - 1)
samplings = st.fixed_dictionaries(
    {"seed": st.integers(0, 99)},
    optional={
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
        "top_p": st.sampled_from([0.5, 0.9]),
        "top_k": st.sampled_from([1, 3, 40]),
        "min_p": st.sampled_from([0.05, 0.3]),
        "repetition_penalty": st.sampled_from([0.7, 1.3, 3.0]),
        "presence_penalty": st.sampled_from([-0.5, 0.7, 5.0]),
        "frequency_penalty": st.sampled_from([-0.5, 0.7, 5.0]),
        "logit_bias": st.lists(st.tuples(ids, st.sampled_from([-9.0, 3.0])), max_size=4).map(tuple),
        "stop_token_ids": st.lists(ids, max_size=40).map(tuple),
        "stops": st.lists(st.sampled_from(["a", "e", "th", '"', "}"]), max_size=2).map(tuple),
        "logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 2),
        "grammar": st.sampled_from(HELD),
    },
)


@st.composite
def requests(draw: Any) -> list[GenerateRequest]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        max_tokens = draw(st.integers(1, 40))
        min_tokens = draw(st.sampled_from([0, 0, draw(st.integers(0, max_tokens))]))
        sampling = draw(samplings) | {"min_tokens": min_tokens}
        prompt = draw(st.one_of(st.lists(ids, min_size=1, max_size=30), st.just([50, 51] * 12)))
        n, best_of = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3)]))
        one = request(f"r{number}", prompt, max_tokens, **sampling)
        made.append(replace(one, n=n, best_of=best_of))
    return made


acts = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("swap"), st.none()),
    ),
    max_size=25,
)


def live(under_test: Engine, asked: list[GenerateRequest], life: list[tuple[str, Any]]) -> Answers:
    """The answers of all that were asked and not cancelled, after what happened meanwhile."""
    told: Answers = {}
    waiting = {one.request_id: one for one in asked}
    cancelled: set[str] = set()

    def step() -> None:
        for chunk in under_test.step():
            told.setdefault(chunk.request_id, []).append(chunk)
        under_test.check_integrity()

    for action, value in [*life, *(("add", n) for n in range(len(asked)))]:
        if action == "add" and (one := waiting.pop(f"r{value}", None)) is not None:
            under_test.add(one)
        elif action == "cancel" and under_test.cancel(f"r{value}"):
            cancelled.add(f"r{value}")
        elif action == "swap":
            under_test.swap(fake())  # the same weights: answers stay the same
        elif action == "step":
            for _ in range(value):
                step()
    while under_test.n_unfinished:
        step()
    return {name: chunks for name, chunks in told.items() if name not in cancelled}


def joined(chunks: list[TokenChunk]) -> list[tuple[object, ...]]:
    """By choice, whatever steps they came in."""
    found = []
    for index in sorted({c.index for c in chunks}):
        mine = [c for c in chunks if c.index == index]
        found.append((
            index,
            tuple(token_id for c in mine for token_id in c.token_ids),
            mine[-1].finish_reason,
            tuple(item for c in mine for item in c.logprobs),
            mine[0].prompt_logprobs,
        ))  # fmt: skip
    return found


@settings(max_examples=150, deadline=None)
@given(
    asked=requests(),
    life=acts,
    proposer=st.sampled_from(sorted(PROPOSERS)),
    n_slots=st.integers(1, 5),
    n_pages=st.integers(7, 16),
    prefill_tokens=st.sampled_from([5, 200]),
)
def test_any_mix_in_any_life(asked, life, proposer, n_slots, n_pages, prefill_tokens):
    plain = engine(None, n_slots=18).generate_all(asked)
    under_test = engine(
        PROPOSERS[proposer](plain), n_slots=n_slots, n_pages=n_pages, prefill_tokens=prefill_tokens
    )
    for name, chunks in live(under_test, asked, life).items():
        assert joined(chunks) == text(plain[name])
    stats = under_test.stats()
    assert stats.n_free_pages == stats.n_pages


FREE = {"stop_token_ids": (), "max_tokens": 60}
KINDS: dict[str, dict[str, Any]] = {
    "presence": FREE | {"presence_penalty": 4.0},
    "frequency": FREE | {"frequency_penalty": -1.0, "temperature": 0.0},
    "repetition": FREE | {"repetition_penalty": 1.8, "top_p": 0.9},
    "bias": FREE | {"logit_bias": ((5, 5.0), (9, -3.0))},
    "told": FREE | {"logprobs": 2, "presence_penalty": 1.0},
    "held back": FREE | {"stop_token_ids": tuple(range(200)), "min_tokens": 40},
    "schema": {"grammar": HELD[0], "max_tokens": 60},
    "letters": {"grammar": HELD[1], "max_tokens": 60, "presence_penalty": 0.5},
    "items": {"grammar": HELD[4], "max_tokens": 60, "min_tokens": 30, "logit_bias": ((0, -20.0),)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("proposer", ["right", "itself"])
def test_right_guesses_are_found_right_and_save_steps(kind, proposer):
    """A draft of equal distribution draws with the same penalties and under the same grammar."""
    asked = [request(f"r{n}", (n + 40,), **KINDS[kind]) for n in range(4)]
    plain = engine(None, n_slots=4).generate_all(asked)
    under_test = engine(PROPOSERS[proposer](plain), n_slots=4)
    found = under_test.generate_all(asked)
    assert {n: text(c) for n, c in found.items()} == {n: text(c) for n, c in plain.items()}
    stats = under_test.stats()
    n_tokens = sum(len(c.token_ids) for chunks in plain.values() for c in chunks)
    assert stats.accepted_tokens > n_tokens / 4
    # What is proposed and not counted as right lies behind an end.
    n_ends = 8 * len(asked) if proposer == "right" else len(asked)
    assert stats.proposed_tokens - stats.accepted_tokens <= n_ends


def test_a_wrong_guess_leaves_no_trace_in_tally_and_grammar():
    """All rows of a step are read, but those behind a wrong guess touch nothing of the sequence."""
    asked = request("r0", grammar=HELD[2], presence_penalty=2.0, repetition_penalty=1.5)
    seen: list[list[tuple[object, ...]]] = []
    for proposer in (None, Oracle({})):
        under_test = engine(proposer, n_slots=1)
        under_test.add(asked)
        [sequence] = under_test._unfinished
        states: list[tuple[object, ...]] = []
        while under_test.n_unfinished:
            under_test.step()
            ids_U, counts_U = sequence.tally.now()
            states.append((len(sequence.token_ids), ids_U.tolist(), counts_U.tolist()))
        seen.append(states)
    assert seen[1] == seen[0]
    assert under_test.stats().proposed_tokens > 0


YES = TOKENIZER.encode("yes, yes, yes")


class Fixed(Oracle):
    """Guesses one text, from its first token on."""

    def __init__(self, token_ids: list[int]) -> None:
        super().__init__({})
        self.token_ids = token_ids

    def guesses(self, sequence, n: int) -> list[int]:
        return self.token_ids[sequence.n_generated :]


@pytest.mark.parametrize(
    ("guesses", "n_possible"),
    [(YES, len(YES)), ([*YES[:3], YES[0], YES[1]], 3), ([YES[0], TOKENIZER.stop_ids[0], *YES], 1)],
)
def test_guesses_that_cannot_be_right_are_not_read(guesses, n_possible):
    asked = request("r0", grammar=Grammar("regex", "(yes, ){2}yes"), max_tokens=40, temperature=0.0)
    under_test = engine(Fixed(guesses), n_slots=1)
    [answer] = under_test.generate_all([asked])["r0"]
    assert TOKENIZER.decode(answer.token_ids) == "yes, yes, yes"
    assert under_test.stats().proposed_tokens <= n_possible


def test_a_slow_grammar_is_not_tried_ahead():
    asked = request("r0", grammar=Grammar("regex", "(yes, ){2}yes"), max_tokens=40, temperature=0.0)
    under_test = engine(Fixed(YES), n_slots=1)
    under_test.add(asked)
    [sequence] = under_test._unfinished
    assert not sequence.constraint.is_slow
    sequence.constraint._left_s = 0.1
    while under_test.n_unfinished:
        under_test.step()
    assert under_test.stats().proposed_tokens == 0
