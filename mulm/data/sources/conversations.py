"""Conversations in the shapes that are about, as canonical messages.

Called by `rows`. Four shapes are recognised by a row's columns: `messages` as OpenAI writes them,
ShareGPT's `conversations`, Alpaca's `instruction`, `input` and `output`, and preference pairs
(`chosen` and `rejected`, with a `prompt` or with `conversations`). Invariant: a message is a role
of `mulm.chat` and a text; what cannot be one raises `BadConversationError` with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, get_args

from mulm.chat import Role
from mulm.config import canonical_json
from mulm.data.sources.base import RawDocument
from mulm.data.sources.decoding import from_text

Turn = dict[str, str]
Turns = list[Turn]
Row = Mapping[str, Any]

_ROLES: Mapping[str, str] = MappingProxyType(
    {role: role for role in get_args(Role)}
    | {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
    | {"model": "assistant", "developer": "system", "function": "tool"}
    | {"function_call": "assistant", "observation": "tool", "function_response": "tool"}
)
"""What others call the roles."""


class BadConversationError(Exception):
    """A row that looks like a conversation and is none; the message is the reason of its reject."""


def conversation(row: Row) -> RawDocument:
    """A conversation of `messages` or `conversations`.

    Raises:
        BadConversationError: it is none, or nothing in it is worth learning.
    """
    if row.get("label") is False:
        raise BadConversationError("marked_as_bad")  # half of a preference, without the other half
    turns = _opened(row, _turns(row["messages"]))
    return _document(turns, turns)


def instruction(row: Row) -> RawDocument:
    """A conversation of `instruction`, `input` and `output`, after those of `history`.

    Raises:
        BadConversationError: one of them is no text.
    """
    asked = [row["instruction"], row.get("input") or ""]
    turns: Turns = []
    for pair in _as_list(row.get("history") or []):
        if not isinstance(pair, list) or len(pair) != 2:
            _bad()
        turns += _exchange(*pair)
    question = "\n\n".join(part for text in asked if (part := _text(text)))
    turns = _opened(row, turns + _exchange(question, row["output"]))
    return _document(turns, turns)


def preference(row: Row) -> RawDocument:
    """A pair of conversations of which the first is better.

    Raises:
        BadConversationError: they are none, or the same.
    """
    asked = row.get("messages") or row.get("prompt") or row.get("instruction") or []
    before = [_turn("user", asked)] if isinstance(asked, str) else _turns(asked)
    pair = {side: _opened(row, _answered(before, row[side])) for side in ("chosen", "rejected")}
    if pair["chosen"] == pair["rejected"]:
        raise BadConversationError("equal_pair")
    for turns in pair.values():
        _require_answer(turns)
        if turns[0]["role"] == "assistant":
            raise BadConversationError("no_prompt")
    return _document(pair["chosen"], pair)


def _opened(row: Row, turns: Turns) -> Turns:
    """With what the system says: a `system` column, and the tools that this is about."""
    said = [_text(row["system"])] if row.get("system") else []
    if turns and turns[0]["role"] == "system":
        said, turns = [*said, turns[0]["content"]], turns[1:]
    if tools := row.get("tools"):
        said.append(f"Tools:\n{tools if isinstance(tools, str) else _plain_json(tools)}")
    return [*([_turn("system", "\n\n".join(said))] if said else []), *turns]


def _answered(before: Turns, answer: object) -> Turns:
    if isinstance(answer, str):
        turns = [_turn("assistant", answer)]
    else:
        turns = _turns([answer] if isinstance(answer, dict) else answer)
    # A list is the answer alone, or it repeats the question.
    is_whole = bool(turns) and turns[0]["role"] != "assistant"
    return turns if is_whole else before + turns


def _document(read: Turns, stored: object) -> RawDocument:
    _require_answer(read)
    text = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in read)
    try:
        return from_text(text, canonical_json(stored).decode())
    except UnicodeEncodeError:
        return from_text(text)  # lone surrogates: it says so


def _require_answer(turns: Turns) -> None:
    if not any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns):
        raise BadConversationError("no_answer")


def _turns(messages: object) -> Turns:
    turns = [_message(message) for message in _as_list(messages)]
    return [turn for turn in turns if turn["content"]]


def _message(message: object) -> Turn:
    if not isinstance(message, dict):
        _bad()
    role = message.get("role") or message.get("from")
    content = _first(message, "content", "value")
    calls = message.get("tool_calls")
    said = [_content(content)] if content else []
    if calls:
        said += [_plain_json(_call(call)) for call in _as_list(calls)]
    if not calls and content is None:
        _bad()
    return _turn(_role(role), "\n".join(said))


def _content(content: object) -> str:
    """The text of a message; of a list of parts, what is text in them."""
    if isinstance(content, str):
        return content
    return "\n".join(_part(part) for part in _as_list(content))


def _part(part: object) -> str:
    if not isinstance(part, dict):
        _bad()
    value = _first(part, "text", "value")
    kind = part.get("type") or "text"
    if not isinstance(value, str) or kind not in ("text", "reasoning", "tool_call"):
        raise BadConversationError("not_text")  # a picture, a sound
    return f"<think>\n{value}\n</think>\n" if kind == "reasoning" else value


def _first(held: Mapping[str, Any], *names: str) -> Any:
    """The first that is there: in a Parquet file every key is, most of them with null."""
    return next((held[name] for name in names if held.get(name) is not None), None)


def _call(call: object) -> object:
    """A tool call as the tool's name and its arguments."""
    function = call.get("function", call) if isinstance(call, dict) else _bad()
    if not isinstance(function, dict) or "name" not in function:
        _bad()
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            _bad()
    return {"name": function["name"], "arguments": arguments}


def _role(name: object) -> str:
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise BadConversationError("unknown_role")
    return role


def _exchange(question: object, answer: object) -> Turns:
    return [_turn("user", question), _turn("assistant", answer)]


def _turn(role: str, content: object) -> Turn:
    return {"role": role, "content": _text(content)}


def _text(value: object) -> str:
    if not isinstance(value, str):
        _bad()
    return value


def _as_list(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        _bad()
    return value


def _plain_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _bad() -> NoReturn:
    raise BadConversationError("bad_messages")
