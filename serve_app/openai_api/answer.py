"""Answers a generation request of either endpoint, streamed or whole.

Called by the `completions` and `chat` routes, which differ in the prompt and in a `Format`.
Invariant: errors up to the first token have an HTTP status of their own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response

from mulm.errors import ConfigError, ContextLengthError
from mulm.messages import GenerateRequest, SamplingParams
from mulm.refs import new_id
from serve_app.openai_api.choices import BegunDeltas, Delta, begun, merge, read_choice
from serve_app.openai_api.schemas import MAX_SEQUENCES, Generation
from serve_app.openai_api.stream import EventStream
from serve_app.service import Served, Service

_SEED_RANGE = 2**63


class Format(Protocol):
    """How one endpoint writes its answers."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    prompt_param: str
    default_max_tokens: int | None
    """New tokens of a choice when the client does not say; None is all that the window leaves."""

    def choice(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        """A finished choice."""

    def chunk_choices(self, delta: Delta, is_first: bool) -> list[dict[str, Any]]:
        """What a stream says about a delta, an item for each event."""


@dataclass(slots=True)
class _Answer:
    """One answer while it is being written."""

    served: Served
    format: Format
    n_prompt_tokens: int
    n_tokens: int = 0
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.model_id,
        }

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.n_prompt_tokens,
            "completion_tokens": self.n_tokens,
            "total_tokens": self.n_prompt_tokens + self.n_tokens,
        }


async def answer(
    service: Service,
    served: Served,
    prompts: Sequence[Sequence[int]],
    body: Generation,
    stop_token_ids: tuple[int, ...],
    form: Format,
    request_id: str,
) -> Response:
    """Generate `n` choices for each prompt and write them.

    Args:
        service: The engine's client.
        served: The model that the prompts were encoded for.
        prompts: Token ids.
        body: Sampling and streaming options.
        stop_token_ids: End a choice without being part of it.
        form: How the endpoint writes.
        request_id: Of the HTTP request; each choice's id in the engine begins with it.

    Raises:
        MulmError: whatever goes wrong before the first token.
    """
    n_choices = body.n or 1
    if len(prompts) * n_choices > MAX_SEQUENCES:
        raise ConfigError(
            f"{len(prompts)} prompts with {n_choices} choices each are too many at a time",
            hint=f"at most {MAX_SEQUENCES} in all",
            param="prompt" if len(prompts) > MAX_SEQUENCES else "n",
        )
    requests = [
        _request(served, ids, body, stop_token_ids, form, f"{request_id}-{index}-{number}", number)
        for index, ids in enumerate(prompts)
        for number in range(n_choices)
    ]
    deltas = await begun(merge([
        read_choice(service.engine, served.model_id, request, served.tokenizer, body.stops, index)
        for index, request in enumerate(requests)
    ]))  # fmt: skip
    state = _Answer(served, form, sum(len(ids) for ids in prompts), id=new_id(form.id_prefix))
    if body.stream:
        return EventStream(_write_chunks(state, deltas, body.wants_usage), deltas)
    return JSONResponse(await _write_whole(state, deltas, len(requests)))


def _request(
    served: Served,
    prompt_ids: Sequence[int],
    body: Generation,
    stop_token_ids: tuple[int, ...],
    form: Format,
    request_id: str,
    number: int,
) -> GenerateRequest:
    sampling = SamplingParams(
        max_tokens=_budget(len(prompt_ids), body, form, served.max_seq_len),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        seed=None if body.seed is None else (body.seed + number) % _SEED_RANGE,
        stop_token_ids=stop_token_ids,
    )
    return GenerateRequest(request_id, tuple(prompt_ids), sampling, served.request_timeout_s)


def _budget(n_prompt: int, body: Generation, form: Format, window: int) -> int:
    left = window - n_prompt
    if left < 1:
        raise ContextLengthError(
            f"the model's window is {window} tokens; the prompt has {n_prompt}",
            hint="shorten the prompt",
            param=form.prompt_param,
        )
    if body.limit is None:
        return min(form.default_max_tokens or left, left)
    if body.limit > left:
        raise ContextLengthError(
            f"the model's window is {window} tokens; the prompt has {n_prompt}"
            f" and {body.limit} more were asked for",
            hint=f"shorten the prompt or lower {body.limit_param}",
            param=body.limit_param,
        )
    return body.limit


async def _write_whole(state: _Answer, deltas: BegunDeltas, n_choices: int) -> dict[str, Any]:
    texts = [""] * n_choices
    reasons: dict[int, str] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            state.n_tokens += delta.n_tokens
            texts[delta.index] += delta.text
            if delta.finish_reason:
                reasons[delta.index] = delta.finish_reason
    assert len(reasons) == n_choices, "a choice has no end"
    choices = [state.format.choice(index, text, reasons[index]) for index, text in enumerate(texts)]
    head = state.head(state.format.whole_object)
    return head | {"choices": choices, "usage": state.usage()}


async def _write_chunks(
    state: _Answer, deltas: BegunDeltas, wants_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    head = state.head(state.format.chunk_object) | ({"usage": None} if wants_usage else {})
    started: set[int] = set()
    async with aclosing(deltas):
        async for delta in deltas:
            state.n_tokens += delta.n_tokens
            for choice in state.format.chunk_choices(delta, delta.index not in started):
                yield head | {"choices": [choice]}
            started.add(delta.index)
    if wants_usage:
        yield head | {"choices": [], "usage": state.usage()}
