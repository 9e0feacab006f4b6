"""Hostile grammars are refused or compiled, each in little time."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.grammar import Grammars
from mulm.errors import ConfigError
from mulm.messages import Grammar
from mulm.testing import tiny_tokenizer
from tests.unit.quick import shortest_s

pytest.importorskip("llguidance")
TOKENIZER = tiny_tokenizer()
GRAMMARS = Grammars(TOKENIZER)
MANY_S = 1.0
"""100 ms are meant; a machine that does other things besides may need longer."""


def chain(n: int, row: str = "a{} ::= a{} \n") -> str:
    rows = "".join(row.format(i, i + 1) for i in range(n))
    return f'root ::= a0\n{rows}a{n} ::= "x"\n'


def schema(**values: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(values))


REFUSED = {
    # The library ends its process on the first, and rounds the others.
    "low numbers": (
        schema(type="integer", minimum=-(2**63), maximum=-(2**63)),
        "beyond 2\\^53",
    ),
    "low real numbers": (schema(type="number", minimum=-1e300, maximum=-1e299), "beyond"),
    "large numbers": (schema(type="integer", minimum=10**40, maximum=10**41), "beyond"),
    "a large constant": (schema(items={"const": [12345678901234567890]}), "beyond"),
    "patterns to be tried": (
        Grammar("ebnf", "start: %json " + json.dumps({
            "x-guidance": {"lenient": True},
            "anyOf": [{"pattern": f"(?i)\\p{{L}}{{0,{n}}}"} for n in range(700)],
        })), "patterns",
    ),
    "low numbers inside": (
        Grammar("ebnf", 'start: %json {"minimum":-1e19,"maximum":-1e19}'), "beyond",
    ),
    "10 MB": (Grammar("regex", "ab" * 5_000_000), "bytes"),
    "10 MB trigger": (Grammar("json_object", after="x" * 10_000_000), "bytes"),
    "deep json": (Grammar("json_schema", '{"items":' * 3000 + "{}" + "}" * 3000), "JSON|deep"),
    "deep lists": (Grammar("json_schema", "[" * 16_000), "JSON"),
    "deep enough": (Grammar("json_schema", '{"items":' * 70 + "{}" + "}" * 70), "deep"),
    "deep brackets": (Grammar("regex", "(" * 10_000 + "a" + ")" * 10_000), "nested"),
    "deep grammar": (Grammar("ebnf", "root ::= " + "(" * 9000 + '"a"' + ")" * 9000), "nested"),
    "many rules": (Grammar("ebnf", chain(1000)), "rules"),
    "many lark rules": (
        Grammar("ebnf", "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(1500))), "rules"
    ),
    "many refs": (
        schema(**{"$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(500)}}), "ref"
    ),
    "remote": (schema(**{"$ref": "http://127.0.0.1:1/x.json"}), "outside"),
    "file": (schema(properties={"a": {"$ref": "file:///etc/passwd"}}), "outside"),
    "remainders": (schema(type="integer", multipleOf=9_999_991), "multipleOf"),
    "common multiple": (
        schema(type="integer", allOf=[{"multipleOf": 997}, {"multipleOf": 991}]), "multipleOf"
    ),
    "fine multiple": (schema(type="number", multipleOf=1.2345678), "multipleOf"),
    "remainders within": (
        Grammar("ebnf", 'start: %json {"type":"integer","multipleOf":9999991}'), "multipleOf"
    ),
    "no json within": (Grammar("ebnf", "start: %json {'a'}"), "%json"),
    "self": (
        schema(**{"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}), "no answer"
    ),
    "nothing at all": (Grammar("regex", r"[^\s\S]"), "there is no text"),
    "a rule of itself": (Grammar("ebnf", "start: start"), "there is no text"),
    "one text for ever": (Grammar("ebnf", 'start: "a" start'), "never ends"),
    "one text for ever, in GBNF": (Grammar("ebnf", 'root ::= "ab" root'), "never ends"),
    "no start": (Grammar("ebnf", 'hello: "a"'), "neither a rule 'start'"),
    "one of": (schema(oneOf=[{"type": "string"}, {"minLength": 3}]), "only anyOf"),
    "look-ahead": (Grammar("regex", "(?=a)b"), "look-ahead"),
    "back reference": (Grammar("regex", r"(a)\1"), "cannot be held"),
    "unclosed": (Grammar("regex", "(a"), "unclosed"),
    "dangling": (Grammar("regex", "\\"), "backslash"),
    "dangling behind another": (Grammar("regex", r"a\\" + "\\"), "backslash"),
    "dangling pattern": (schema(type="string", pattern="a\\"), "backslash"),
    "dangling key": (
        schema(properties={"a": {"patternProperties": {"^a\\": {}}}}), "backslash"
    ),
    "dangling within": (Grammar("ebnf", 'start: %json {"pattern":"a\\\\"}'), "backslash"),
    "doubled": (Grammar("ebnf", chain(30, "a{0} ::= a{1} a{1}\n")), "big"),
    "special": (Grammar("ebnf", 'start: <|im_end|> "x"'), "no answer"),
    "surrogate": (Grammar("regex", "a\ud800"), "surrogate"),
    "escaped surrogate": (Grammar("choice", '["\\ud800"]'), "surrogate"),
    "surrogate in a schema": (Grammar("json_schema", '{"enum":["\\ud800"]}'), "cannot be held"),
    "NUL": (Grammar("regex", "a\0b"), "NUL"),
    "NaN": (Grammar("json_schema", '{"maximum":NaN}'), "JSON"),
    "infinity": (Grammar("json_schema", '{"maximum":1e999}'), "JSON"),
    "huge number": (Grammar("json_schema", '{"maximum":' + "9" * 9000 + "}"), "JSON"),
    "negative length": (schema(type="string", minLength=-1), "minLength"),
    "nothing": (schema(enum=[]), "Unsatisfiable"),
    "false": (Grammar("json_schema", "false"), "Unsatisfiable"),
    "list": (Grammar("json_schema", "[]"), "object"),
    "empty": (Grammar("json_schema", ""), "JSON"),
    "object with text": (Grammar("json_object", "{}"), "no schema"),
    "no choice": (Grammar("choice", "[]"), "choices"),
    "no list": (Grammar("choice", '{"a":1}'), "choices"),
    "no texts": (Grammar("choice", "[1]"), "choices"),
    "many choices": (Grammar("choice", json.dumps([str(i) for i in range(2001)])), "choices"),
    "no grammar": (Grammar("ebnf", ""), "root"),
    "unknown rule": (Grammar("ebnf", "root ::= a"), "a"),
    "doubled keys": (schema(type="object", minProperties=2), "minProperties"),
    "intersected": (
        schema(type="string", allOf=[{"pattern": f"a{i}.*b"} for i in range(30)]), "pattern"
    ),
    "intersected by references": (
        schema(**{
            "$defs": {"a30": {"type": "string"}} | {
                f"a{i}": {"$ref": f"#/$defs/a{i + 1}", "pattern": f"a{i}.*b"} for i in range(30)
            }, "$ref": "#/$defs/a0",
        }), "pattern"
    ),
    "empty lines": (Grammar("ebnf", "\n" * 32_000), "neither a rule"),
    "empty lines of the other dialect": (
        Grammar("ebnf", "root ::= a" + "\n" * 32_000), "characters"
    ),
    "many fields": (
        schema(type="object", properties={f"p{i}": {} for i in range(1500)}), "properties"
    ),
    "cross product": (
        schema(allOf=[
            {"anyOf": [{"type": "object", "properties": {f"k{j}_{i}": {"type": "integer"}}}
                       for i in range(4)]} for j in range(8)
        ]), "large",
    ),
}  # fmt: skip

HELD = {
    "a backslash": Grammar("regex", r"a\\"),
    "a backslash in a pattern": schema(type="string", pattern=r"a\\"),
    "a{1,100000}": Grammar("regex", "a{1,100000}"),
    "nested counts": Grammar("regex", "(a{1,1000}){1,1000}"),
    "exponential automaton": Grammar("regex", "[ab]*a[ab]{30}"),
    "backtracking": Grammar("regex", "(a*)*b"),
    "letters": Grammar("regex", r"(\p{L}|\p{N}){100,1000}"),
    "many alternatives": Grammar("regex", "|".join(f"w{i}" for i in range(4000))),
    "many items": schema(type="array", minItems=100_000, items={}),
    "long text": schema(type="string", maxLength=10_000_000),
    "recursive": schema(**{"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"}),
    "tree of references": schema(**{
        "$defs": {"a30": {}} | {
            f"a{i}": {"properties": {key: {"$ref": f"#/$defs/a{i + 1}"} for key in "xy"}}
            for i in range(30)
        }, "$ref": "#/$defs/a0",
    }),
    "left recursive": Grammar("ebnf", 'root ::= root root | "a"\n'),
    "fields": schema(type="object", properties={f"p{i}": {"type": "string"} for i in range(600)}),
    "names that are keywords": schema(
        type="object", properties={"not": {"type": "string"}, "$ref": {}, "multipleOf": {}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(name: str) -> None:
    grammar, words = REFUSED[name]

    def refuse() -> None:
        with pytest.raises(ConfigError, match=words) as error:
            GRAMMARS.prepare(grammar)
        assert error.value.details["param"] == "grammar"
        assert len(error.value.message) < 500

    assert shortest_s(refuse, MANY_S) < MANY_S


@pytest.mark.parametrize("name", HELD)
def test_held_at_once(name: str) -> None:
    assert shortest_s(lambda: Grammars(TOKENIZER).prepare(HELD[name]), MANY_S) < MANY_S


UNHELD = [
    "not", "if", "uniqueItems", "contains", "minContains", "maxContains", "propertyNames",
    "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties",
    "unevaluatedItems", "$dynamicRef", "$recursiveRef",
]  # fmt: skip


@pytest.mark.parametrize("keyword", UNHELD)
def test_a_keyword_that_is_not_held_is_named(keyword: str) -> None:
    for values in ({keyword: {}}, {"properties": {"a": {keyword: True}}, "type": "object"}):
        with pytest.raises(ConfigError, match=re_quote(keyword)):
            GRAMMARS.prepare(schema(**values))


def re_quote(keyword: str) -> str:
    return keyword.replace("$", r"\$")


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigError, match="horse"):
        GRAMMARS.prepare(schema(type="string", format="horse"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "items", "enum", "const", "anyOf", "allOf", "$ref", "pattern",
             "minimum", "multipleOf", "required", "minItems", "maxLength", "format", "a"]
        ), inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(json_values)
def test_any_json_is_compiled_or_refused(value: Any) -> None:
    prepared(Grammar("json_schema", json.dumps(value)))


letters = st.sampled_from('ab(){}[]|*+?\\.^$,:="\n é1%<>/&~-') | st.characters()


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["regex", "ebnf", "choice", "json_schema"]),
    st.text(alphabet=letters, max_size=30),
    st.sampled_from(["", "root ::= ", "start: "]),
    st.text(max_size=3),
)  # fmt: skip
def test_any_text_is_compiled_or_refused(kind: Any, text: str, before: str, after: str) -> None:
    prepared(Grammar(kind, before + text, after))


def prepared(grammar: Grammar) -> None:
    def compile_it() -> None:
        grammars = Grammars(TOKENIZER)  # keeps nothing of the time before
        with suppress(ConfigError):
            grammars.compile(grammar, TOKENIZER.stop_ids)

    assert shortest_s(compile_it, MANY_S) < MANY_S


@pytest.mark.parametrize("grammar", [
    Grammar("regex", "(?=a)b"),
    Grammar("regex", "(a"),
    schema(type="string", pattern="(?=a)b"),
    schema(oneOf=[{"type": "string"}, {"minLength": 3}]),
    schema(**{"$ref": "#"}),
    schema(type="nonsense"),
    Grammar("ebnf", 'start: %json {"oneOf": [{"type": "string"}, {"minLength": 3}]}'),
    Grammar("ebnf", 'start: %json {"type": "string", "pattern": "(?=a)b"}'),
    Grammar("ebnf", "start: start"),
])  # fmt: skip
def test_nothing_of_our_insides_is_told(grammar: Grammar) -> None:
    with pytest.raises(ConfigError) as refused:
        GRAMMARS.compile(grammar)
    for word in ("coerce", "guidance", "NoExt", "start:", "at 1(", " | ", "whitespace"):
        assert word not in refused.value.message
