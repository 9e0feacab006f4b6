"""OpenAI's request bodies, as far as they mean something here.

Read by the routes. Invariant: every documented parameter either works or is refused by name;
one that we do not support is accepted at its neutral value, so that clients which spell out
defaults work. The additions to OpenAI's are those that vLLM's clients know.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from mulm.config import Frozen
from mulm.errors import nearest
from mulm.messages import Grammar

MAX_CHOICES = 16
MAX_SEQUENCES = 64
"""Prompts times choices of one request."""

MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_NOTES = 16
MAX_STOP_IDS = 64

MAX_STOPS = 4
MAX_TURNS = 4096
"""Of a conversation; more fit no window, and each takes its time to be read."""

_SHOWN_CHARS = 64

_T = TypeVar("_T")
ListOf = Annotated[list[_T], Field(fail_fast=True)]
"""What is wrong with the first wrong item is all that a client is told, so no other is looked at.
"""


def only(*neutral: object) -> AfterValidator:
    """Refuse every value but these."""

    def check(value: object) -> object:
        if not any(value == known and type(value) is type(known) for known in neutral):
            raise PydanticCustomError("unsupported_parameter", "is not supported by this server")
        return value

    return AfterValidator(check)


def few(most: int) -> BeforeValidator:
    """Refuse an object of more members before any is looked at."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > most:
            facts = {"field_type": "Dictionary", "max_length": most, "actual_length": len(value)}
            raise PydanticKnownError("too_long", facts)
        return value

    return BeforeValidator(check)


Unsupported = Annotated[Any, only(None)]
NeutralFalse = Annotated[Any, only(None, False)]
NeutralList = Annotated[Any, only(None, [])]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(strict=True, ge=0)]
_KEY = re.compile(r"0|[1-9][0-9]{0,9}")
TokenKey = Annotated[
    int,
    BeforeValidator(lambda key: int(key) if _KEY.fullmatch(key) else key),
    Field(ge=0),
]
"""A token id as a key of an object, which JSON makes a text."""

TokenIds = Annotated[ListOf[TokenId], Field(min_length=1)]
Texts = Annotated[ListOf[str], Field(min_length=1)]
Metadata = (
    Annotated[dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
              Field(max_length=MAX_NOTES), few(MAX_NOTES)] | None
)  # fmt: skip
"""A client's notes of something that is kept."""

TokenIdLists = Annotated[ListOf[TokenIds], Field(min_length=1)]


class Body(Frozen):
    """A body that names the nearest known parameter when it meets an unknown one.

    A value has the type that it should have, or is refused: `"1"` is no number, nor is `true`.
    """

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _knows_all(cls, values: Any) -> Any:
        known = _names_of(cls)
        if isinstance(values, dict) and not values.keys() <= known:
            shown = next(key for key in values if key not in known)[:_SHOWN_CHARS]
            facts = {"hint": nearest(shown, sorted(known)), "param": (shown,)}
            raise PydanticCustomError("unknown_parameter", "is unknown here: {hint}", facts)
        return values


@cache
def _names_of(schema: type[Body]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in schema.model_fields.items())


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    include_obfuscation: NeutralFalse = None


class StructuredOutputs(Body):
    """What an answer must match; exactly one of them."""

    json_: Annotated[dict[str, Any] | bool | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[ListOf[str], Field(min_length=1)] | None = None
    grammar: str | None = None
    """In the EBNF of Lark."""
    json_object: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> StructuredOutputs:
        given = (self.json_, self.regex, self.choice, self.grammar, self.json_object or None)
        if sum(value is not None for value in given) != 1:
            raise PydanticCustomError(
                "invalid_value", "give exactly one of json, regex, choice, grammar, json_object"
            )
        return self

    @property
    def held(self) -> Grammar:
        """What the engine holds the answer to."""
        if self.json_ is not None:
            schema = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_)
            return Grammar("json_schema", schema)
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.choice is not None:
            return Grammar("choice", json.dumps(self.choice))
        return Grammar("json_object") if self.grammar is None else Grammar("ebnf", self.grammar)


class Generation(Body):
    """What both endpoints share."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """0 and -1 keep all tokens."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    logit_bias: (
        Annotated[dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]],
                  Field(max_length=MAX_BIASES), few(MAX_BIASES)] | None
    ) = None  # fmt: skip
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[ListOf[StopText], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[ListOf[TokenId], Field(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: bool | None = None
    """Go on after the token that ends a text or a turn, to `max_tokens`."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Cut a longer prompt to its last tokens."""
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
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

    @property
    def n_choices(self) -> int:
        """Choices for each prompt."""
        return self.n or 1

    @property
    def n_best_of(self) -> int:
        """Choices that are generated, of which the best are returned."""
        return self.n_choices

    @property
    def n_logprobs(self) -> int | None:
        """Alternatives that are told with each token; None for no log-probabilities at all."""
        return None

    @property
    def held(self) -> tuple[Grammar | None, str]:
        """What answers are held to, and the parameter that says so."""
        found = self.structured_outputs.held if self.structured_outputs else None
        return found, "structured_outputs"


class CompletionBody(Generation):
    """`POST /v1/completions`."""

    prompt: str | TokenIds | Texts | TokenIdLists = ""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """0 generates nothing, as for the log-probabilities of a prompt with `echo`."""
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: Annotated[Any, only(None, "")] = None

    @model_validator(mode="after")
    def _best_are_among_all(self) -> CompletionBody:
        if self.best_of is not None and self.best_of < self.n_choices:
            raise PydanticCustomError(
                "invalid_value", "must not be smaller than n", {"param": ("best_of",)}
            )
        if self.stream and self.n_best_of > self.n_choices:
            raise PydanticCustomError(
                "invalid_value", "larger than n cannot be streamed", {"param": ("best_of",)}
            )
        return self

    @property
    def n_best_of(self) -> int:
        """As `Generation.n_best_of`."""
        return self.best_of or self.n_choices

    @property
    def n_logprobs(self) -> int | None:
        """As `Generation.n_logprobs`."""
        return self.logprobs
