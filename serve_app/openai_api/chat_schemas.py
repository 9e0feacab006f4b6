"""The body of `POST /v1/chat/completions`, as far as it means something here.

Read by the chat route; see `schemas` for what becomes of the rest.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

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

_MAX_NAME = 64


class TextPart(Body):
    """A part of a message; only text is read."""

    type: Annotated[str, only("text")]
    text: str


class CalledFunction(Body):
    """What the assistant called, its arguments as the text that it wrote."""

    name: str
    arguments: str = "{}"


class CalledTool(Body):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class JsonSchema(Body):
    """The schema that an answer must match."""

    name: Annotated[str, Field(min_length=1, max_length=_MAX_NAME)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")] = {}
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            told = "is required" if self.json_schema is None else "belongs to the type json_schema"
            raise PydanticCustomError("invalid_value", told, {"param": ("json_schema",)})
        return self

    @property
    def held(self) -> Grammar | None:
        """What the engine holds the answer to."""
        if self.json_schema is not None:
            return Grammar("json_schema", json.dumps(self.json_schema.schema_))
        return Grammar("json_object") if self.type == "json_object" else None


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | ListOf[TextPart] | None = None
    name: Annotated[str, Field(max_length=_MAX_NAME)] | None = None
    """Noted by nobody: the chat format has no place for it."""
    tool_call_id: str | None = None
    refusal: Unsupported = None
    annotations: NeutralList = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: ListOf[CalledTool] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("invalid_value", "is required", {"param": ("content",)})
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise PydanticCustomError(
                "invalid_value", "belongs to the role tool", {"param": ("tool_call_id",)}
            )
        return self

    @property
    def text(self) -> str:
        """The content in one piece."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[ListOf[ChatMessage], Field(min_length=1, max_length=MAX_TURNS)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    audio: Unsupported = None
    function_call: Annotated[Any, only(None, "none")] = None
    functions: NeutralList = None
    logprobs: Annotated[bool, Field(strict=True)] | None = None
    metadata: Metadata = None
    """Belongs to stored completions; nothing is stored here."""
    modalities: Annotated[Any, only(None, ["text"])] = None
    moderation: Unsupported = None
    parallel_tool_calls: bool | None = None
    prediction: Unsupported = None
    prompt_cache_key: str | None = None
    """Taken and not used: where a prompt is kept, its tokens tell."""
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Annotated[Any, only(None, "none")] = None
    response_format: ResponseFormat | None = None
    safety_identifier: str | None = None
    """Like `user`."""
    service_tier: Annotated[Any, only(None, "auto", "default")] = None
    store: NeutralFalse = None
    tool_choice: Any = None
    """Read with `tools` by `mulm.toolcalls`."""
    tools: Any = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    verbosity: Annotated[Any, only(None, "medium")] = None
    web_search_options: Unsupported = None

    @property
    def limit(self) -> int | None:
        """New tokens at most, under whichever of its two names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def limit_param(self) -> str:
        """As `Generation.limit_param`."""
        return "max_completion_tokens" if self.max_completion_tokens else "max_tokens"

    @model_validator(mode="after")
    def _has_one_limit(self) -> ChatBody:
        if self.max_tokens and self.max_completion_tokens:
            raise PydanticCustomError(
                "invalid_value", "give max_completion_tokens or this", {"param": ("max_tokens",)}
            )
        return self

    @model_validator(mode="after")
    def _has_what_it_names(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "invalid_value", "needs logprobs", {"param": ("top_logprobs",)}
            )
        if self.structured_outputs and self.response_format and self.response_format.held:
            raise PydanticCustomError(
                "invalid_value", "give response_format or this", {"param": ("structured_outputs",)}
            )
        return self

    @property
    def n_logprobs(self) -> int | None:
        """As `Generation.n_logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def held(self) -> tuple[Grammar | None, str]:
        """As `Generation.held`."""
        if self.response_format is not None and self.response_format.held:
            return self.response_format.held, "response_format"
        return super().held
