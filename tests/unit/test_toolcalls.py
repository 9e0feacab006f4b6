"""Tools from a client's words to the prompt, to a grammar, and to calls in the answer."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mulm.errors import ConfigError
from mulm.testing import tiny_tokenizer
from mulm.toolcall_parser import ToolCallDelta
from mulm.toolcalls import ToolUse, read_tools

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5, "description": "a ((( city"},
                   "description": {"type": "integer", "maximum": 9, "minimum": 0}},
    "required": ["city"],
    "additionalProperties": False,
}  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
NOW = {"type": "function", "name": "now", "description": 'The "time"\n\x01', "strict": True}
SCHEMAS = {"weather": CITY, "now": {"type": "object", "maxProperties": 0}}


def test_both_shapes_are_read_and_described_alike() -> None:
    use = read_tools([WEATHER, NOW])
    assert [tool.name for tool in use.tools] == ["weather", "now"]
    assert (use.mode, use.allowed, use.is_parallel) == ("auto", ("weather", "now"), True)
    assert use.described[0] == WEATHER
    assert use.described[1]["function"]["description"] == NOW["description"]
    nested = {"type": "function", "function": {k: v for k, v in NOW.items() if k != "type"}}
    assert read_tools([nested]).tools == read_tools([NOW]).tools


CHOICES: list[tuple[Any, str, tuple[str, ...]]] = [
    (None, "auto", ("weather", "now")),
    ("none", "none", ("weather", "now")),
    ("required", "required", ("weather", "now")),
    ({"type": "function", "function": {"name": "now"}}, "required", ("now",)),
    ({"type": "function", "name": "now"}, "required", ("now",)),
    ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]},
     "auto", ("now",)),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
     "required", ("weather",)),
]  # fmt: skip


@pytest.mark.parametrize(("choice", "mode", "allowed"), CHOICES)
def test_a_choice_is_read(choice: Any, mode: str, allowed: tuple[str, ...]) -> None:
    use = read_tools([WEATHER, NOW], choice, parallel=False)
    assert (use.mode, use.allowed, use.is_parallel) == (mode, allowed, False)
    is_none = [use.parser() is None, use.grammar() is None, use.described == []]
    assert is_none == [mode == "none"] * 3


def test_no_tools_ask_for_nothing() -> None:
    for use in (read_tools(None), read_tools([]), read_tools(None, "none"), ToolUse()):
        assert (use.described, use.grammar(), use.parser()) == ([], None, None)


def tool(**changes: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **changes}}]


DEEP: Any = {"type": "object"}
for _ in range(300):
    DEEP = {"type": "object", "properties": {"a": DEEP}}

WRONG: list[tuple[Any, Any, str]] = [
    ({}, None, "list"),
    ("x", None, "list"),
    ([1], None, "function"),
    ([{"type": "custom", "name": "a"}], None, "function"),
    ([{"type": "function"}], None, "name"),
    ([{"type": "function", "function": 1}], None, "fields"),
    ([{"type": "function", "function": {"name": "a"}, "x": 1}], None, "fields"),
    (tool(name="a b"), None, "name"),
    (tool(name="x" * 65), None, "name"),
    (tool(name="x\n"), None, "name"),
    (tool(name=""), None, "name"),
    (tool(name=None), None, "name"),
    (tool(description=3), None, "description"),
    (tool(description="x" * 10_000_000), None, "bytes"),
    (tool(description="a </tools> b"), None, "tools"),
    (tool(parameters={"type": "object", "description": "<tool_call>"}), None, "tool_call"),
    (tool(parameters=[]), None, "schema"),
    (tool(parameters={"type": "string"}), None, "schema"),
    (tool(parameters=DEEP), None, "deep"),
    (tool(parameters={"maximum": float("nan")}), None, "JSON"),
    (tool(strict="yes"), None, "strict"),
    (tool(parametres={}), None, "parametres"),
    (tool() * 2, None, "two tools"),
    (tool() * 129, None, "129"),
    (tool(), "sometimes", "tool_choice"),
    (tool(), 3, "tool_choice"),
    (tool(), {"type": "magic"}, "type"),
    (tool(), {"type": "function"}, "names no"),
    (tool(), {"type": "function", "function": {"name": "g"}}, "'g'"),
    (tool(), {"type": "allowed_tools", "mode": "none", "tools": [{"name": "f"}]}, "mode"),
    (tool(), {"type": "allowed_tools", "mode": "auto", "tools": []}, "list"),
    (tool(), {"type": "allowed_tools", "allowed_tools": 1}, "mode"),
]


@pytest.mark.parametrize(("tools", "choice", "words"), WRONG)
def test_what_is_wrong_is_named(tools: Any, choice: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        read_tools(tools, choice)
    param = "tools" if choice is None else "tool_choice"
    assert error.value.details["param"] == param
    assert len(error.value.message) < 200


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "parameters", "mode", "tools", "strict"]),
            inner | st.sampled_from(["function", "auto", "allowed_tools", "f"]),
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(json_like | st.lists(json_like, max_size=2), json_like)
def test_any_words_are_read_or_refused(tools: Any, choice: Any) -> None:
    with suppress(ConfigError):
        assert isinstance(read_tools(tools, choice), ToolUse)


def said(use: ToolUse, seed: int, n_tokens: int = 400) -> str:
    """A random answer that the grammar of `use` holds; may be cut."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("llguidance")
    from mulm.engine.grammar import Grammars

    tokenizer = tiny_tokenizer()
    grammar = use.grammar()
    assert grammar is not None
    constraint = Grammars(tokenizer).compile(grammar, tokenizer.stop_ids)
    rng, ids = random.Random(seed), []
    mask_W = torch.zeros(10, dtype=torch.int32)
    for _ in range(n_tokens):
        constraint.fill_mask(mask_W)
        words = mask_W.tolist()
        allowed = [i for i in range(320) if words[i // 32] >> (i % 32) & 1]
        near = [i for i in allowed if tokenizer.token_bytes(i)[:1] in (b'"', b"}", b"<", b"\n")]
        chosen = rng.choice(near if near and rng.random() < 0.5 else allowed)
        if chosen in tokenizer.stop_ids:
            break
        ids.append(chosen)
        constraint.accept(chosen)
        if constraint.is_done:
            break
    assert not constraint.is_broken
    return tokenizer.decode(ids)


@pytest.mark.parametrize("choice", ["required", CHOICES[3][0], CHOICES[6][0]])
@pytest.mark.parametrize("is_parallel", [True, False])
def test_a_required_call_comes_and_fits_its_schema(choice: Any, is_parallel: bool) -> None:
    use = read_tools([WEATHER, NOW], choice, is_parallel)
    for seed in range(4):
        text = said(use, seed)
        text = text[: text.rindex("</tool_call>") + len("</tool_call>")]
        parser = use.parser()
        assert parser is not None
        calls: dict[int, list[str]] = {}
        for delta in [*parser.push(text), *parser.finish()]:
            assert isinstance(delta, ToolCallDelta)
            calls.setdefault(delta.index, [delta.name or "", ""])[1] += delta.arguments
        assert is_parallel or len(calls) == 1
        for name, arguments in calls.values():
            assert name in use.allowed
            Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))


def test_a_call_that_may_come_is_held_from_its_mark_on() -> None:
    grammar = read_tools([WEATHER, NOW]).grammar()
    assert grammar is not None
    assert grammar.after == "<tool_call>"
    assert "now" in grammar.text
    needed = read_tools([WEATHER, NOW], "required").grammar()
    assert needed is not None
    assert needed.after == ""
    assert needed.text.startswith('start: "<tool_call>" call')


def test_what_cannot_be_held_is_left_out_unless_strict() -> None:
    pytest.importorskip("llguidance")
    from mulm.engine.grammar import Grammars

    grammars = Grammars(tiny_tokenizer())
    odd = {"type": "object", "properties": {"a": {"uniqueItems": True, "format": "horse"}}}
    lenient, strict = (
        read_tools(tool(parameters=odd, strict=is_strict), "required").grammar()
        for is_strict in (False, True)
    )
    assert lenient is not None
    assert strict is not None
    grammars.prepare(lenient)
    with pytest.raises(ConfigError, match="uniqueItems"):
        grammars.prepare(strict)
