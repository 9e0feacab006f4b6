"""What crosses a process border on the way from request to tokens: small, frozen, picklable.

The ingress makes a `GenerateRequest`; the engine answers with `TokenChunk`s until each of the
request's choices has one that carries a `finish_reason`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

FinishReason = Literal["stop", "length", "deadline"]
GrammarKind = Literal["json_object", "json_schema", "regex", "choice", "ebnf"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match from its first to its last character.

    `text` is the schema as JSON, the regular expression, the choices as a JSON list of strings, or
    the grammar; empty for any JSON object. `after` lets the answer be free until this text appears
    in it, as before a tool call; empty constrains from the first token.
    """

    kind: GrammarKind
    text: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; the defaults are OpenAI's.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1.0 and `min_p` 0.0 keep all tokens; penalties of
    0 and a `repetition_penalty` of 1 change nothing. A request with a `seed` gives the same tokens
    whatever runs beside it. `stop_token_ids` end a choice and are not returned; `stops`, texts that
    end it, are, as far as the token goes that completes one: who shows text cuts it. Neither ends
    it before `min_tokens`. `logprobs` asks for the logarithm of each token's probability and of
    that many alternatives', `prompt_logprobs` for the prompt's; None for neither.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt to be gone on with, in `n` choices.

    With `best_of` above `n` that many are generated, and when all have ended those are returned
    whose tokens have the highest mean log-probability, best first. `max_tokens` may be 0 where only
    `prompt_logprobs` or `is_embedding` are wanted; the latter asks for the mean of the prompt's
    last hidden states.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    deadline_s: float = 600.0
    """Seconds after arrival at which the engine gives up and finishes with "deadline"."""
    is_hurried: bool = False
    """Whether its client gave it less time than others have: that it was not enough is its own."""
    n: int = 1
    best_of: int = 1
    adapter: str | None = None
    """The name of a LoRA adapter that the engine holds; None is the model alone."""
    is_embedding: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log-probability, and the likeliest tokens in its place, best first.

    Of the distribution before temperature, penalties, bias and truncation.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens of one choice, in order; the last one has a finish reason.

    `logprobs` has an item for each of `token_ids` where they were asked for. What belongs to the
    prompt comes with a choice's first chunk: `prompt_logprobs`, an item a token with None for the
    first, `n_cached_tokens`, how many of them were not computed anew, and the `embedding`.
    """

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    n_cached_tokens: int = 0
    embedding: tuple[float, ...] = ()


def join_chunks(chunks: Sequence[TokenChunk]) -> TokenChunk:
    """Chunks of one choice, in order and at least one, as if they had come at once."""
    if len(chunks) == 1:
        return chunks[0]
    first = chunks[0]
    return replace(
        first,
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
        finish_reason=chunks[-1].finish_reason,
        logprobs=tuple(item for chunk in chunks for item in chunk.logprobs),
    )
