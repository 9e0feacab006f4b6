"""Messages to token ids, and to the loss mask for training, in the tokenizer's chat format.

Called by the ingress and by the dataset build; `exported_template` is the same in Jinja for
those who load an exported model. Invariant: only the format writes special ids; a message
that spells `<|im_end|>` is read as those characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from mulm.chat_format import CALL_BEGIN, CALL_END, TOOLS_BEGIN, TOOLS_END
from mulm.config import Frozen
from mulm.data.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(Frozen):
    """A call of a tool by the assistant; `arguments` are a JSON object as text."""

    name: str
    arguments: str = "{}"
    id: str = ""
    """Names it for the message with its result; no part of the prompt."""


class Message(Frozen):
    """One turn of a conversation.

    The assistant may call tools after what it says. A result of one is a turn of the role "tool";
    results stand in the order of their calls, so that ids and names need not be read.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As before there were tools, where there are none."""
        values: dict[str, Any] = write(self)
        return {key: value for key, value in values.items() if key in _ALWAYS or value}


_ALWAYS = ("role", "content")


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """The ids of a conversation; with the prompt, the model's turn is next.

    `tools` are described to the model in the system's turn, as JSON, each on a line of its own.
    """
    ids = render_training(messages, tokenizer, tools)[0]
    if add_generation_prompt:
        head_ids, lead = _head("assistant", tokenizer)
        ids += [*head_ids, *tokenizer.encode(lead)]
    return ids


def exported_template(tokenizer: Tokenizer) -> str:
    """What stands in exported models: a conversation is a document, as it is served here too."""
    return "{{ bos_token }}" + tokenizer.chat_format.template


def render_training(
    messages: Sequence[Message], tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and for each id whether the model learns to say it.

    Returns:
        Ids and loss mask, of one length. The mask is 1 on what the assistant says and on the
        end of its turn, 0 on roles, other speakers and line ends between turns.
    """
    form = tokenizer.chat_format
    after = tokenizer.encode(form.after)
    ids: list[int] = []
    mask: list[int] = []
    for message in _with_tools(messages, tools, form.is_trimmed):
        head_ids, lead = _head(message.role, tokenizer)
        # One text, so that its ids are those of the exported template.
        text_ids = tokenizer.encode(lead + said(message, form.is_trimmed))
        learns = int(message.role == "assistant")
        ends = accumulate(len(tokenizer.token_bytes(i)) for i in text_ids)
        ids += [*head_ids, *text_ids, tokenizer.turn_end_id, *after]
        mask += [0] * len(head_ids)
        mask += [*(learns if end > len(lead) else 0 for end in ends), learns, *([0] * len(after))]
    return ids, mask


def said(message: Message, is_trimmed: bool) -> str:
    """The text of a turn: its content, then its calls."""
    content = message.content.strip() if is_trimmed else message.content
    calls = [
        f'{CALL_BEGIN}\n{{"name": {_json(call.name)}, "arguments": {call.arguments}}}\n{CALL_END}'
        for call in message.tool_calls
    ]
    return "\n".join([content, *calls] if content else calls)


def _with_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], is_trimmed: bool
) -> Sequence[Message]:
    """The tools at the end of what the system says, who speaks first then."""
    if not tools:
        return messages
    begins = bool(messages) and messages[0].role == "system"
    content = messages[0].content if begins else ""
    content = content.strip() if is_trimmed else content
    section = "\n".join([TOOLS_BEGIN, *map(_json, tools)]) + TOOLS_END
    text = f"{content}\n\n{section}" if content else section
    return [Message(role="system", content=text), *messages[begins:]]


def _json(value: Any) -> str:
    """As templates write it elsewhere: characters as they are, keys in their order."""
    return json.dumps(value, ensure_ascii=False)


def _head(role: str, tokenizer: Tokenizer) -> tuple[list[int], str]:
    """The ids that begin a turn, and the ASCII text that its content continues."""
    form = tokenizer.chat_format
    begin = tokenizer.id_of(form.turn_begin)
    if form.role_end is None:
        return [begin], role + form.gap
    return [begin, *tokenizer.encode(role), tokenizer.id_of(form.role_end)], form.gap
