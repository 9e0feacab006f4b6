"""Whether the calls of tools in a conversation and their results fit together.

Called by the routes before a conversation is rendered. Invariant: in what is returned, every call
has its result behind it, in the order of the calls, so that the prompt needs no ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mulm.chat import Message, ToolCall
from mulm.errors import ConfigError
from mulm.toolcalls import MARKS, NAME


def check_turns(messages: Sequence[Message]) -> list[Message]:
    """The same turns, results in the order of their calls.

    Raises:
        ConfigError: a result without its call, a call without its result, or arguments that are no
            JSON object.
    """
    turns: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if message.role == "tool" and message.tool_call_id is not None:
            raise _wrong_turn(f"no call {message.tool_call_id[:64]!r} stands before its result")
        if message.tool_calls and message.role != "assistant":
            raise _wrong_turn(f"{message.role} calls a tool; only the assistant does")
        if not message.tool_calls:
            turns.append(message)
            continue
        calls = [_checked(call) for call in message.tool_calls]
        turns.append(message.model_copy(update={"tool_calls": tuple(calls)}))
        end = at
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        turns += _in_order(calls, messages[at:end])
        at = end
    return turns


def _in_order(calls: Sequence[ToolCall], results: Sequence[Message]) -> list[Message]:
    by_id = {result.tool_call_id: result for result in results}
    ids = [call.id for call in calls]
    if len(by_id) != len(results) or len(set(ids)) != len(ids):
        raise _wrong_turn("two calls or two results have one id")
    strange = [key for key in by_id if key not in ids]
    if strange:
        raise _wrong_turn(f"no call {str(strange[0])[:64]!r} stands before its result")
    missing = [key for key in ids if key not in by_id]
    if missing:
        raise _wrong_turn(f"the call {missing[0][:64]!r} has no result")
    return [by_id[key] for key in ids]


def _checked(call: ToolCall) -> ToolCall:
    """Arguments on one line, as the model would have written them."""
    if not NAME.fullmatch(call.name):
        raise _wrong_turn("the name of a call has other characters than a-z, A-Z, 0-9, _ and -")
    value = _json_object(call.arguments or "{}")
    if value is None:
        raise _wrong_turn(f"the arguments of the call of {call.name} are no JSON object")
    text = json.dumps(value, ensure_ascii=False)
    if any(mark in text for mark in MARKS):
        text = text.replace("<", "\\u003c")
    return call.model_copy(update={"arguments": text})


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _wrong_turn(message: str) -> ConfigError:
    return ConfigError(message, param="messages")
