"""Whatever a model says, an answer that ends by itself matches its grammar."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mulm.engine import grammar as grammar_module
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.grammar import Grammars, is_installed
from mulm.engine.grammar_constraint import GrammarConstraint
from mulm.errors import ConfigError, OverloadedError
from mulm.messages import GenerateRequest, Grammar, SamplingParams, TokenChunk
from mulm.testing import tiny_tokenizer

pytest.importorskip("llguidance")
TOKENIZER = tiny_tokenizer()
GRAMMARS = Grammars(TOKENIZER)
STOPS = TOKENIZER.stop_ids
N_WORDS = TOKENIZER.vocab_size // 32
BITS = torch.arange(32, dtype=torch.int32)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "é": {"enum": ["ü", "日本", 3, None]},
        "age": {"type": "integer", "minimum": 0, "maximum": 130, "multipleOf": 5},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "é"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    PERSON,
    {"$defs": {"a": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/a"},
                                                   "maxItems": 2}]}}, "$ref": "#/$defs/a"},
    {"type": "string", "pattern": "^[a-c]{2,3}x?$"},
    {"type": "string", "minLength": 3, "maxLength": 4},
    {"type": "number", "minimum": -1, "exclusiveMaximum": 1.5},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {"const": {"a": [1, "x", None]}},
    {"type": "object", "patternProperties": {"^k": {"type": "null"}}, "additionalProperties": False,
     "maxProperties": 2},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}},
               {"properties": {"a": {"minimum": 4}}, "required": ["a"]}],
     "additionalProperties": False, "properties": {"a": True}},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
]  # fmt: skip


def allowed(constraint: GrammarConstraint) -> list[int]:
    mask_W = torch.full((N_WORDS + 2,), -1, dtype=torch.int32)
    constraint.fill_mask(mask_W)
    assert mask_W[N_WORDS:].tolist() == [0, 0]
    ids: list[int] = ((mask_W[:, None] >> BITS) & 1).flatten().nonzero()[:, 0].tolist()
    return ids


def engine() -> Engine:
    model = FakeModel(FakeConfig(TOKENIZER.vocab_size, 512))
    return Engine(model, n_slots=8, tokenizer=TOKENIZER, make_constraint=GRAMMARS.compile, seed=0)


def answers(grammar: Grammar, n: int = 8, **sampling: Any) -> Iterator[tuple[str, TokenChunk]]:
    """Of a model whose logits are noise; it likes to end, and to close what it opened."""
    closers = [TOKENIZER.encode(c)[0] for c in '"]}']
    likes = tuple((i, 6.0) for i in (*closers, *STOPS))
    params = {"max_tokens": 200, "stop_token_ids": STOPS, "logit_bias": likes} | sampling
    request = GenerateRequest("r", (40,), SamplingParams(grammar=grammar, **params), n=n)
    for chunk in engine().generate_all([request])["r"]:
        yield TOKENIZER.decode(chunk.token_ids), chunk


def ended(grammar: Grammar, n: int = 8, **sampling: Any) -> list[str]:
    texts = [t for t, chunk in answers(grammar, n, **sampling) if chunk.finish_reason == "stop"]
    assert len(texts) >= n // 2, "too few ended by themselves to say anything"
    return texts


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:30])
def test_an_answer_is_valid(schema: Any) -> None:
    for text in ended(Grammar("json_schema", json.dumps(schema))):
        Draft202012Validator(schema).validate(json.loads(text))


def test_any_object() -> None:
    for text in ended(Grammar("json_object")):
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    "pattern", [r"[a-f]{2,5}", r"(é|🙂|日本){1,3}", r"\d{4}-[01]\d", r"a|bc|", r"[^\x00-\x7f]{1,2}"]
)
def test_an_answer_matches_its_expression(pattern: str) -> None:
    for text in ended(Grammar("regex", pattern)):
        assert re.fullmatch(pattern, text), text


def test_an_answer_is_one_of_the_choices() -> None:
    choices = ["yes", "yes!", "no", 'né\n"\\', "🙂", "<|im_end|>"]
    found = set(ended(Grammar("choice", json.dumps(choices)), n=32))
    assert found <= set(choices)
    assert len(found) > 2


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a" item* "."\nitem ::= [0-9] | "é🙂"\n',
        'start: "a" item* "."\nitem: /[0-9]|é🙂/\n',
    ],
)
def test_an_answer_is_in_the_language(text: str) -> None:
    for answer in ended(Grammar("ebnf", text)):
        assert re.fullmatch(r"a([0-9]|é🙂)*\.", answer), answer


@pytest.mark.parametrize("inline", [False, True])
def test_a_key_cannot_be_said_twice_by_numbers(inline: bool) -> None:
    """The second "a" would count, and need be no integer."""
    text = '{"type":"object","properties":{"a":{"type":"integer"}}}'
    grammar = Grammar("ebnf", f"start: %json {text}\n") if inline else Grammar("json_schema", text)
    constraint = GRAMMARS.compile(grammar, STOPS)
    for again in ('"a"', '"\\u0061"'):
        ids = TOKENIZER.encode('{"a":1,' + again + ':"x"}')
        assert constraint.count_accepted(ids) < len(ids)
    ids = TOKENIZER.encode('{"a":1,"b\\n\\"":"x\\\\"}')
    assert constraint.count_accepted(ids) == len(ids)


def test_free_until_the_trigger() -> None:
    grammar = Grammar("choice", '["yes","no"]', after="<?>")
    constraint = GRAMMARS.compile(grammar, STOPS)
    text_ids = {i for i in range(TOKENIZER.vocab_size) if TOKENIZER.token_bytes(i)}
    for token_id in TOKENIZER.encode("free > <"):
        # All text is free; bytes that are no UTF-8 are not.
        assert (
            set(TOKENIZER.encode("Hello <<\n")) <= set(allowed(constraint)) <= text_ids | {*STOPS}
        )
        assert set(STOPS) <= set(allowed(constraint))
        constraint.accept(token_id)
    for token_id in TOKENIZER.encode("?>"):
        constraint.accept(token_id)
    assert not set(STOPS) & set(allowed(constraint))
    for token_id in TOKENIZER.encode("no"):
        assert token_id in allowed(constraint)
        constraint.accept(token_id)
    assert constraint.is_done
    assert not constraint.is_broken


def test_a_token_may_reach_over_the_trigger() -> None:
    """The rest of it is held already."""
    over = next(i for i in range(TOKENIZER.vocab_size) if TOKENIZER.token_bytes(i) == b"er")
    for choices, is_allowed in (('["rat"]', True), ('["cat"]', False)):
        constraint = GRAMMARS.compile(Grammar("choice", choices, after="se"), STOPS)
        constraint.accept(TOKENIZER.encode("s")[0])
        assert (over in allowed(constraint)) is is_allowed


def test_special_tokens_are_no_text_and_the_end_comes_where_it_may() -> None:
    constraint = GRAMMARS.compile(Grammar("regex", "a|ab"), (STOPS[0],))
    special = set(TOKENIZER.special_tokens.values())
    assert not special & set(allowed(constraint))
    constraint.accept(TOKENIZER.encode("a")[0])
    assert special & set(allowed(constraint)) == {STOPS[0]}
    assert constraint.may_end
    assert not constraint.is_done


def test_an_ordinary_token_that_ends_is_no_text() -> None:
    b = TOKENIZER.encode("b")[0]
    constraint = GRAMMARS.compile(Grammar("regex", "a[abc]"), (b,))
    constraint.accept(TOKENIZER.encode("a")[0])
    assert b not in allowed(constraint)
    constraint.accept(TOKENIZER.encode("c")[0])
    assert allowed(constraint) == [b]


def test_an_answer_ends_by_itself_without_any_stop_token() -> None:
    [(text, chunk)] = answers(Grammar("choice", '["yes"]'), n=1, stop_token_ids=())
    assert (text, chunk.finish_reason) == ("yes", "stop")


def test_cut_short_is_told() -> None:
    for text, chunk in answers(Grammar("choice", '["yes yes yes"]'), max_tokens=3):
        assert chunk.finish_reason == "length"
        assert "yes yes yes".startswith(text)


def test_a_whole_answer_ends_before_min_tokens() -> None:
    for text, chunk in answers(Grammar("choice", '["yes"]'), min_tokens=40):
        assert (text, chunk.finish_reason) == ("yes", "stop")


def test_greedy_and_penalised_answers_are_held_too() -> None:
    grammar = Grammar("json_schema", json.dumps(PERSON))
    for sampling in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1, "presence_penalty": 2.0}):
        for text in ended(grammar, n=2, **sampling):
            Draft202012Validator(PERSON).validate(json.loads(text))


def test_a_grammar_disturbs_nobody() -> None:
    """Free answers are the same whether or not others are held."""
    free = [
        GenerateRequest(f"f{i}", (i + 40,), SamplingParams(max_tokens=20, seed=i)) for i in (0, 1)
    ]
    sampling = SamplingParams(max_tokens=30, grammar=Grammar("json_object"))
    held = GenerateRequest("held", (50,), sampling)
    alone, together = engine().generate(free), engine().generate([held, *free])
    assert all(alone[r.request_id].token_ids == together[r.request_id].token_ids for r in free)


texts = st.text(alphabet=st.sampled_from('ab"\\{}[]: ,é🙂01ntrue'), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCHEMAS), texts, st.lists(st.integers(0, 400), max_size=6))
def test_what_a_copy_takes_changes_nothing(schema: Any, text: str, astray: list[int]) -> None:
    constraint = GRAMMARS.compile(Grammar("json_schema", json.dumps(schema)), STOPS)
    for token_id in TOKENIZER.encode(text):
        now, was_done = allowed(constraint), constraint.is_done
        copied = constraint.copy()
        assert allowed(copied) == now
        for other in astray:
            copied.accept(other)
            allowed(copied)
        constraint.count_accepted(astray)
        assert (allowed(constraint), constraint.is_done) == (now, was_done)
        if token_id not in now:
            break
        assert constraint.count_accepted([token_id]) == 1
        constraint.accept(token_id)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5))
def test_any_choices_are_held(choices: list[str]) -> None:
    try:
        constraint = GRAMMARS.compile(Grammar("choice", json.dumps(choices)), STOPS)
    except ConfigError:
        assert any("\0" in choice for choice in choices)
        return
    for choice in choices[:2]:
        walker = constraint.copy()
        for token_id in TOKENIZER.encode(choice):
            assert token_id in allowed(walker)
            walker.accept(token_id)
        assert walker.may_end


def test_a_token_that_is_not_allowed_breaks_it_and_ends_the_answer() -> None:
    constraint = GRAMMARS.compile(Grammar("choice", '["yes"]'), STOPS)
    constraint.accept(TOKENIZER.encode("n")[0])
    assert constraint.is_broken
    assert constraint.is_done
    assert allowed(constraint) == sorted(STOPS)


def test_an_ambiguous_grammar_runs_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mulm.engine.grammar_constraint._BUDGET_S", 0.02)
    monkeypatch.setattr("mulm.engine.grammar_constraint._BUDGET_PER_TOKEN_S", 0.0)
    grammar = Grammar("ebnf", 'root ::= root root root | root root | "a" | "aa"\n')
    [(text, chunk)] = answers(grammar, n=1, stop_token_ids=())
    assert set(text) == {"a"}
    assert chunk.finish_reason == "length"
    assert GRAMMARS.compile(grammar).count_accepted(chunk.token_ids) == len(chunk.token_ids)


def test_an_answer_that_may_only_be_empty_has_no_token() -> None:
    [(_, chunk)] = answers(Grammar("regex", ""), n=1, stop_token_ids=())
    assert (chunk.token_ids, chunk.finish_reason) == ((), "stop")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Grammar]:
    """What is compiled from now on."""
    sources: list[Grammar] = []
    real = grammar_module.source_of
    monkeypatch.setattr(
        grammar_module, "source_of", lambda grammar: sources.append(grammar) or real(grammar)
    )
    return sources


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def choice_of(n: int) -> Grammar:
    return Grammar("choice", json.dumps([str(n)]))


def test_what_was_compiled_is_kept_and_renewed(
    monkeypatch: pytest.MonkeyPatch, compiled: list[Grammar]
) -> None:
    monkeypatch.setattr(grammar_module, "_N_CACHED", 2)
    monkeypatch.setattr(grammar_module, "_MAX_USES", 3)
    clock = Clock()
    grammars = Grammars(TOKENIZER, clock)
    a, b, c = map(choice_of, range(3))
    for grammar in (a, a, a):
        grammars.compile(grammar)
    assert compiled == [a]
    grammars.compile(a)
    assert compiled == [a, a], "renewed after three uses"
    clock.now_s = 10.0
    for grammar in (b, c, b):
        grammars.compile(grammar)
    assert compiled == [a, a, b, c]
    grammars.compile(a)
    assert compiled == [a, a, b, c, a], "the oldest was dropped"


def test_the_engines_thread_never_compiles(compiled: list[Grammar]) -> None:
    clock = Clock()
    grammars = Grammars(TOKENIZER, clock)
    with pytest.raises(OverloadedError):
        grammars.constraint(choice_of(0))
    assert compiled == []
    for n in range(30):
        grammars.prepare(choice_of(n))
    for n in range(30):  # all of them are awaited still
        grammars.constraint(choice_of(n))
    clock.now_s = 10.0
    grammars.prepare(choice_of(30))
    assert len(grammars._compiled) == 16
    with pytest.raises(OverloadedError, match="too many"):
        grammars.constraint(choice_of(0))
    grammars.constraint(choice_of(29))
    for n in range(100):
        grammars.prepare(choice_of(n))
    assert len(grammars._compiled) == 64
    assert len(compiled) <= 131


def test_streams_go_on_beside_a_grammar_that_is_not_there() -> None:
    model = FakeModel(FakeConfig(TOKENIZER.vocab_size, 512))
    under_test = Engine(
        model, n_slots=2, tokenizer=TOKENIZER, make_constraint=Grammars(TOKENIZER).constraint
    )
    under_test.add(GenerateRequest("free", (40,), SamplingParams(max_tokens=3)))
    sampling = SamplingParams(max_tokens=3, grammar=Grammar("json_object"))
    with pytest.raises(OverloadedError):
        under_test.add(GenerateRequest("held", (40,), sampling))
    under_test.check_integrity()
    assert [chunk.request_id for chunk in under_test.step()] == ["free"]


def test_tokens_that_are_only_tried_take_no_room_of_the_lexer_from_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its automaton has a state for each of the last 31 letters."""
    monkeypatch.setitem(grammar_module._LIMITS, "max_lexer_states", 250)
    constraint = Grammars(TOKENIZER).compile(Grammar("regex", "[ab]*a[ab]{30}"), STOPS)
    letters = [TOKENIZER.encode(letter)[0] for letter in "ab"]
    random = Random(0)
    constraint.accept(letters[0])
    twins = [constraint.copy() for _ in range(3)]
    for _ in range(500):
        for twin in twins:
            if not twin.is_broken:
                allowed(twin)
                twin.accept(random.choice(letters))
        constraint.count_accepted(random.choices(letters, k=30))
    assert all(twin.is_broken for twin in twins), "their lexer is full"
    for _ in range(30):
        assert set(allowed(constraint)) >= set(letters)
        constraint.accept(letters[1])
    assert constraint.may_end
    assert not constraint.is_broken
    constraint.copy()
    assert 0 <= constraint.count_accepted(letters) <= 2


def test_threads_that_start_at_the_same_time_have_the_stack_that_they_need() -> None:
    """The size is set for the whole process while one starts."""
    sizes: list[int] = []

    class Slow(threading.Thread):
        def start(self) -> None:
            for _ in range(5):
                sizes.append(threading.stack_size(64 << 20))  # there is no other way to ask
                time.sleep(0.002)

    starters = [
        threading.Thread(target=grammar_module._start_with_stack, args=(Slow(),)) for _ in range(6)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert sizes == [64 << 20] * 30
    assert threading.stack_size(0) == 0


def test_without_the_library_a_grammar_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert not is_installed()
    with pytest.raises(ConfigError, match="llguidance") as error:
        Grammars(TOKENIZER)
    assert "pip install" in error.value.hint
    sampling = SamplingParams(max_tokens=9, grammar=Grammar("json_object"))
    request = GenerateRequest("r", (40,), sampling)
    with pytest.raises(ConfigError, match="cannot hold"):
        Engine(FakeModel(), n_slots=1).add(request)


def test_a_slow_compilation_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "_DEADLINE_S", 0.01)
    monkeypatch.setattr(grammar_module, "source_of", lambda _: time.sleep(0.1))
    with pytest.raises(ConfigError, match="too long"):
        Grammars(TOKENIZER).prepare(Grammar("json_object"))


def test_a_worn_grammar_is_made_anew_where_it_is_prepared_and_not_in_the_engines_thread(
    monkeypatch,
):
    grammars, one = Grammars(tiny_tokenizer()), Grammar("json_object")
    made, compile_it = [], Grammars._compile

    def noted(self: Grammars, grammar: Grammar) -> Any:
        made.append(threading.current_thread().name)
        return compile_it(self, grammar)

    monkeypatch.setattr(Grammars, "_compile", noted)
    for _ in range(400):
        waiting = threading.Thread(target=grammars.prepare, args=(one,), name="may wait")
        waiting.start()
        waiting.join()
        grammars.constraint(one)
    assert 2 <= len(made) <= 5
    assert set(made) == {"may wait"}
