"""The body of `POST /v1/responses`, as far as it means something here, and its items.

Read by the responses route; see `schemas` for what becomes of the rest.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from mulm.chat import Message, ToolCall
from mulm.messages import Grammar
from serve_app.openai_api.schemas import (
    MAX_LOGPROBS,
    MAX_TURNS,
    Body,
    Generation,
    ListOf,
    Metadata,
    NeutralFalse,
    NeutralList,
    Unsupported,
    only,
)

_TEXTS = ("input_text", "output_text", "text")
_LOGPROBS = "message.output_text.logprobs"


class ResponseText(Body):
    """A part of a message; only text is read."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: NeutralList = None
    logprobs: list[Any] | None = None
    """Of an answer that is sent back; it changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, values: Any) -> Any:
        return _of_type(values, *_TEXTS)


class MessageItem(Body):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | ListOf[ResponseText]
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_message(cls, values: Any) -> Any:
        return _of_type(values, "message")

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else _joined(self.content)


class CallItem(Body):
    """A call of a tool by the assistant."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = "{}"
    id: str | None = None
    status: str | None = None


class ResultItem(Body):
    """What a tool gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | ListOf[ResponseText]
    id: str | None = None
    status: str | None = None

    @property
    def text(self) -> str:
        """The output in one piece."""
        return self.output if isinstance(self.output, str) else _joined(self.output)


def _kind(item: object) -> str:
    """The member of `Item` that an item is meant for; what is of no kind is no message either."""
    kind = item.get("type") if isinstance(item, dict) else None
    return f"({kind})" if kind in ("function_call", "function_call_output") else "(message)"


Item = Annotated[
    Annotated[MessageItem, Tag("(message)")]
    | Annotated[CallItem, Tag("(function_call)")]
    | Annotated[ResultItem, Tag("(function_call_output)")],
    Discriminator(_kind),
]
"""Looked up by its type: to try each costs more, and says less of what is wrong."""


class TextFormat(Body):
    """The form of an answer; a schema stands beside its type here."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            told = "is required" if self.schema_ is None else "belongs to the type json_schema"
            raise PydanticCustomError("invalid_value", told, {"param": ("schema",)})
        return self


class TextOptions(Body):
    """How text is answered."""

    format: TextFormat | None = None
    verbosity: Annotated[Any, only(None, "medium")] = None


class Reasoning(Body):
    """Nothing here reasons apart from its answer."""

    effort: Annotated[Any, only(None, "none")] = None
    summary: Unsupported = None
    generate_summary: Unsupported = None


class ResponseStreamOptions(Body):
    """Nothing to choose."""

    include_obfuscation: NeutralFalse = None


class ResponsesBody(Generation):
    """`POST /v1/responses`; sampling parameters beyond OpenAI's are those of the chat route."""

    input: str | Annotated[ListOf[Item], Field(min_length=1, max_length=MAX_TURNS)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    previous_response_id: Annotated[str, Field(min_length=1)] | None = None
    store: bool | None = None
    """Whether the response can be gone on with and fetched later; yes."""
    text: TextOptions | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: ListOf[Annotated[str, only(_LOGPROBS)]] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """With `auto` the oldest turns are left out where a conversation does not fit."""
    metadata: Metadata = None
    stream_options: ResponseStreamOptions | None = None  # type: ignore[assignment]
    access_programs: Unsupported = None
    background: NeutralFalse = None
    background_options: Unsupported = None
    context_management: Unsupported = None
    conversation: Unsupported = None
    image: Unsupported = None
    max_tokens: Unsupported = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    n: Annotated[Any, only(None, 1)] = None
    prompt: Unsupported = None
    prompt_cache_key: str | None = None
    """Taken and not used: where a prompt is kept, its tokens tell."""
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning: Reasoning | None = None
    safety_identifier: str | None = None
    """Like `user`."""
    service_tier: Annotated[Any, only(None, "auto", "default")] = None

    @property
    def limit(self) -> int | None:
        """As `Generation.limit`."""
        return self.max_output_tokens

    @property
    def limit_param(self) -> str:
        """As `Generation.limit_param`."""
        return "max_output_tokens"

    @property
    def wants_usage(self) -> bool:
        """A stream always ends with it."""
        return True

    @property
    def n_logprobs(self) -> int | None:
        """As `Generation.n_logprobs`."""
        return (self.top_logprobs or 0) if self.include or self.top_logprobs else None

    @property
    def held(self) -> tuple[Grammar | None, str]:
        """As `Generation.held`."""
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return super().held
        if form.schema_ is None:
            return Grammar("json_object"), "text.format"
        return Grammar("json_schema", json.dumps(form.schema_)), "text.format"

    @property
    def messages(self) -> list[Message]:
        """The input as turns of a conversation."""
        if isinstance(self.input, str):
            return [Message(role="user", content=self.input)]
        turns: list[tuple[Message, list[ToolCall]]] = []
        for item in self.input:
            match item:
                case MessageItem():
                    role = "system" if item.role == "developer" else item.role
                    turns.append((Message(role=role, content=item.text), []))
                case ResultItem():
                    result = Message(role="tool", content=item.text, tool_call_id=item.call_id)
                    turns.append((result, []))
                case CallItem():  # belongs to what the assistant has just said
                    if not turns or turns[-1][0].role != "assistant":
                        turns.append((Message(role="assistant", content=""), []))
                    call = ToolCall(name=item.name, arguments=item.arguments, id=item.call_id)
                    turns[-1][1].append(call)
        return [
            turn.model_copy(update={"tool_calls": tuple(calls)}) if calls else turn
            for turn, calls in turns
        ]


def _of_type(values: Any, *known: str) -> Any:
    """The same, but for what has another type: that, and not its fields, is what we do not know."""
    kind = values.get("type") if isinstance(values, dict) else None
    if isinstance(kind, str) and kind not in known:
        raise PydanticCustomError(
            "unsupported_parameter", "is not supported by this server", {"param": ("type",)}
        )
    return values


def _joined(parts: list[ResponseText]) -> str:
    return "".join(part.text for part in parts)
