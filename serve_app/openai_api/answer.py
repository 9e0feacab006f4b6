"""Answers a generation request of either endpoint, streamed or whole.

Called by the `completions` and `chat` routes, which differ in what they ask and in a `Format`.
Invariant: errors up to the first token have an HTTP status of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response

from mulm.refs import new_id
from serve_app.caller import Caller
from serve_app.limiter import Ticket
from serve_app.openai_api.asked import Asked, named_by_client
from serve_app.openai_api.choices import BegunDeltas, Delta, Deltas, begun, merge, read_choices
from serve_app.openai_api.finished import Finished, Usage
from serve_app.openai_api.stream import EventStream
from serve_app.served import Served


class Format(Protocol):
    """How one endpoint writes an answer; made for each answer, since it keeps its place in it."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def choice(self, finished: Finished) -> dict[str, Any]:
        """A finished choice."""

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        """What a stream says about a delta, an item for each event."""


@dataclass(slots=True)
class _Answer:
    """One answer while it is being written."""

    served: Served
    format: Format
    usage: Usage
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }


async def answer(served: Served, asked: Asked, form: Format, caller: Caller) -> Response:
    """Generate all choices and write them.

    Args:
        served: The model that the prompts were encoded for.
        asked: What is wanted.
        form: How the endpoint writes.
        caller: Who asks; each prompt's id in the engine begins with that of the request.

    Raises:
        MulmError: whatever goes wrong before the first token.
    """
    deltas = await generate(served, asked, caller)
    state = _Answer(served, form, Usage(sum(map(len, asked.prompts))), new_id(form.id_prefix))
    if asked.body.stream:
        return EventStream(_write_chunks(state, deltas, asked.body.wants_usage), deltas)
    return JSONResponse(await _write_whole(state, deltas))


async def generate(served: Served, asked: Asked, caller: Caller) -> BegunDeltas:
    """The deltas of all choices, once the first is there.

    Raises:
        MulmError: whatever goes wrong before it, in the client's words for parameters.
    """
    requests = asked.requests(served, caller.request_id, caller.timeout_s)
    n_prompt = sum(map(len, asked.prompts))
    n_new = sum(max(each.n, each.best_of) * each.sampling.max_tokens for each in requests)
    caller.ticket.reserve(served.name, n_prompt + n_new)
    make_text = partial(asked.text, served.tokenizer)
    with named_by_client(grammar=asked.grammar_param, prompt=asked.prompt_param):
        return await begun(metered(caller.ticket, n_prompt, merge([
            read_choices(served.engine, served.model_id, request, make_text, n * request.n)
            for n, request in enumerate(requests)
        ])))  # fmt: skip


async def metered(ticket: Ticket, n_prompt: int, deltas: Deltas) -> Deltas:
    """The same deltas, while their tokens are counted.

    The prompt counts from the first on, and where a client leaves before; not where it was refused.
    """
    has_begun = False
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                ticket.spend(0 if has_begun else n_prompt, len(delta.token_ids))
                has_begun = True
                yield delta
    except (GeneratorExit, asyncio.CancelledError):
        if not has_begun:
            ticket.spend(n_prompt, 0)
        raise


async def _write_whole(state: _Answer, deltas: BegunDeltas) -> dict[str, Any]:
    found: dict[int, Finished] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            state.usage.add(delta)
            found.setdefault(delta.index, Finished(delta.index)).add(delta)
    choices = [state.format.choice(found[index]) for index in sorted(found)]
    head = state.head(state.format.whole_object)
    return head | {"choices": choices, "usage": state.usage.written()}


async def _write_chunks(
    state: _Answer, deltas: BegunDeltas, wants_usage: bool
) -> AsyncGenerator[dict[str, Any], None]:
    head = state.head(state.format.chunk_object) | ({"usage": None} if wants_usage else {})
    async with aclosing(deltas):
        async for delta in deltas:
            state.usage.add(delta)
            for choice in state.format.chunk_choices(delta):
                yield head | {"choices": [choice]}
    if wants_usage:
        yield head | {"choices": [], "usage": state.usage.written()}
