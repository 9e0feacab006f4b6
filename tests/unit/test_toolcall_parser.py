"""The calls of tools are found in an answer, however its text is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.chat import Message, ToolCall, render
from mulm.testing import tiny_tokenizer
from mulm.toolcall_parser import ContentDelta, Delta, ToolCallDelta, ToolCallParser


def parsed(
    parser: ToolCallParser | None, text: str, step: int
) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls of a text that comes in pieces."""
    assert parser is not None
    deltas: list[Delta] = []
    for at in range(0, len(text), step):
        deltas += parser.push(text[at : at + step])
    deltas += parser.finish()
    content, calls = "", []
    for delta in deltas:
        if isinstance(delta, ContentDelta):
            assert delta.text
            content += delta.text
            continue
        if delta.name is not None:
            assert delta.id is not None
            assert delta.index == len(calls)
            calls.append([delta.name, ""])
        calls[delta.index][1] += delta.arguments
    assert parser.n_calls == len(calls)
    return content, [(name, arguments) for name, arguments in calls]


def fresh(is_held: bool = False) -> ToolCallParser:
    return ToolCallParser(("f", "g"), lambda: "call_1", is_held=is_held)


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TRICKY = '{"a": "</tool_call>}{\\"\\\\", "b": [{"c": "<tool_call>é🙂"}]}'
WHOLE: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("Hello <b>", "Hello <b>", []),
    (call("f", "{}"), "", [("f", "{}")]),
    ("Let me see.\n\n" + call("f", TRICKY), "Let me see.", [("f", TRICKY)]),
    (call("f", "{}") + "\n" + call("g", '{"x": 1}'), "", [("f", "{}"), ("g", '{"x": 1}')]),
    (call("f", "{}") + " and\n" + call("g", "{}") + "\n", " and", [("f", "{}"), ("g", "{}")]),
    ("a <tool_call> b", "a <tool_call> b", []),
    ("a \n" + call("h", "{}") + " b", "a \n" + call("h", "{}") + " b", []),
    ("a\n" + call("f", "[1]"), "a\n" + call("f", "[1]"), []),
    ("<tool_call>\n{'name'}\n</tool_call>", "<tool_call>\n{'name'}\n</tool_call>", []),
    ("<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", []),
    ("<tool_call><tool_call>" + call("f", "{}"), "<tool_call><tool_call>", [("f", "{}")]),
    ("<tool_call>", "<tool_call>", []),
    ("a  <tool_ca", "a  <tool_ca", []),
    ("  ", "  ", []),
    ("</tool_call>", "</tool_call>", []),
]


@pytest.mark.parametrize(("text", "content", "calls"), WHOLE)
@pytest.mark.parametrize("is_held", [False, True])
def test_calls_are_found(text: str, content: str, calls: list[Any], is_held: bool) -> None:
    for step in (1, 2, 5, 11, 1000):
        assert parsed(fresh(is_held), text, step) == (content, calls)


def test_a_call_cut_short_is_content_and_a_held_one_stays_a_call() -> None:
    text = "a " + call("f", '{"x": 1234}')[:-20]
    assert parsed(fresh(), text, 3) == (text, [])
    content, [(name, arguments)] = parsed(fresh(is_held=True), text, 3)
    assert (content, name) == ("a", "f")
    assert '{"x": 1234}'.startswith(arguments)


def test_held_arguments_come_as_they_are_said() -> None:
    parser = fresh(is_held=True)
    deltas = [d for char in call("f", '{"x": 12}') for d in parser.push(char)]
    assert len(deltas) > 5
    assert deltas[0] == ToolCallDelta(0, "", "call_1", "f")
    assert "".join(d.arguments for d in deltas if isinstance(d, ToolCallDelta)) == '{"x": 12}'


def test_half_a_mark_is_never_shown() -> None:
    parser = fresh()
    shown = ""
    for char in "see " + call("f", "{}"):
        shown += "".join(d.text for d in parser.push(char) if isinstance(d, ContentDelta))
        assert "<" not in shown
    assert (shown, parser.n_calls) == ("see", 1)


PIECES = [
    "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {', "}", "{", '"', "\\", "\n", " ",
    "a", "<", "é", call("f", "{}"), call("g", TRICKY), '"name"', ":",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans())
def test_pieces_do_not_matter_and_nothing_is_lost(text: str, is_held: bool) -> None:
    whole = parsed(fresh(is_held), text, 10_000)
    assert all(parsed(fresh(is_held), text, step) == whole for step in (1, 3))
    content, calls = parsed(fresh(), text, 1)
    if not calls:
        assert content == text
    for _, arguments in calls:
        assert isinstance(json.loads(arguments), dict)


def test_what_was_said_is_rendered_as_it_was_said() -> None:
    """So that the next turn finds the pages of this one again."""
    text = "Let me see.\n" + call("f", '{"x": 1}') + "\n" + call("g", "{}")
    content, calls = parsed(fresh(), text, 4)
    made = tuple(ToolCall(name=name, arguments=arguments) for name, arguments in calls)
    tokenizer = tiny_tokenizer()
    message = Message(role="assistant", content=content, tool_calls=made)
    assert render([message], tokenizer, False) == render(
        [Message(role="assistant", content=text)], tokenizer, False
    )
