"""OpenAI's request bodies, as far as they mean something here.

Read by the routes. Invariant: every documented parameter either works or is refused by name;
one that we do not support is accepted at its neutral value, so that clients which spell out
defaults work. `top_k` is the one addition.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mulm.config import Frozen
from mulm.errors import nearest

MAX_CHOICES = 8
MAX_SEQUENCES = 32
"""Prompts times choices of one request."""

MAX_STOPS = 4


def only(*neutral: object) -> AfterValidator:
    """Refuse every value but these."""

    def check(value: object) -> object:
        if not any(value == known and type(value) is type(known) for known in neutral):
            raise PydanticCustomError("unsupported_parameter", "is not supported by this server")
        return value

    return AfterValidator(check)


Number = float | int | None
Unsupported = Annotated[Any, only(None)]
NeutralZero = Annotated[Any, only(None, 0, 0.0)]
NeutralFalse = Annotated[Any, only(None, False)]
NeutralOne = Annotated[Any, only(None, 1)]
NeutralList = Annotated[Any, only(None, [])]
NeutralMapping = Annotated[Any, only(None, {})]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
TokenIds = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1)]
TokenIdLists = Annotated[list[TokenIds], Field(min_length=1)]


class Body(Frozen):
    """A body that names the nearest known parameter when it meets an unknown one."""

    @model_validator(mode="before")
    @classmethod
    def _knows_all(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                hint = nearest(key, cls.model_fields)
                facts = {"hint": hint, "param": (key,)}
                raise PydanticCustomError("unknown_parameter", "is unknown here: {hint}", facts)
        return values


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    include_obfuscation: NeutralFalse = None


class Generation(Body):
    """What both endpoints share."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: NeutralZero = None
    presence_penalty: NeutralZero = None
    logit_bias: NeutralMapping = None
    user: str | None = None
    """Noted by nobody: it changes no answer, at OpenAI either."""

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "invalid_value", "only allowed with stream", {"param": ("stream_options",)}
            )
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def limit(self) -> int | None:
        """New tokens at most, if the client says."""
        return self.max_tokens

    @property
    def limit_param(self) -> str:
        """The name under which it says so."""
        return "max_tokens"

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(Generation):
    """`POST /v1/completions`."""

    prompt: str | TokenIds | Texts | TokenIdLists = ""
    best_of: NeutralOne = None
    echo: NeutralFalse = None
    logprobs: Unsupported = None
    suffix: Annotated[Any, only(None, "")] = None


class TextPart(Frozen):
    """A part of a message; only text is read."""

    type: Annotated[str, only("text")]
    text: str


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: Unsupported = None
    refusal: Unsupported = None
    annotations: NeutralList = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: NeutralList = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("invalid_value", "is required", {"param": ("content",)})
        return self

    @property
    def text(self) -> str:
        """The content in one piece."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    audio: Unsupported = None
    function_call: Annotated[Any, only(None, "none")] = None
    functions: NeutralList = None
    logprobs: NeutralFalse = None
    metadata: dict[str, str] | None = None
    """Belongs to stored completions; nothing is stored here."""
    modalities: Annotated[Any, only(None, ["text"])] = None
    moderation: Unsupported = None
    parallel_tool_calls: bool | None = None
    """Means nothing without tools."""
    prediction: Unsupported = None
    prompt_cache_key: str | None = None
    """A hint for routing; it changes no answer."""
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Unsupported = None
    reasoning_effort: Annotated[Any, only(None, "none")] = None
    response_format: Annotated[Any, only(None, {"type": "text"})] = None
    safety_identifier: str | None = None
    """Like `user`."""
    service_tier: Annotated[Any, only(None, "auto", "default")] = None
    store: NeutralFalse = None
    tool_choice: Annotated[Any, only(None, "none", "auto")] = None
    tools: NeutralList = None
    top_logprobs: NeutralZero = None
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
