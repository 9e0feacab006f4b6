"""From an engine's tokens to the texts of one answer's choices.

Called by `answer`. Invariants: texts and counts do not depend on how tokens were grouped on
their way; when one choice fails all are cancelled; closing an iterator closes what it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from mulm.errors import DeadlineError, NotRunningError
from mulm.messages import GenerateRequest, TokenChunk, TokenLogprob
from serve_app.engine_client import EngineClient
from serve_app.openai_api.text import TextStream


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one choice: text (may be empty), new tokens, and how it ended if it did.

    What belongs to the prompt comes with the first: its log-probabilities, and, of a prompt's first
    choice, how many of its tokens were not computed anew.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    n_cached_tokens: int = 0


Deltas = AsyncGenerator[Delta, None]


async def read_choices(
    engine: EngineClient,
    model_id: str,
    request: GenerateRequest,
    make_text: Callable[[], TextStream],
    first_index: int,
) -> Deltas:
    """All choices of a request until they end; when every one is at a stop it is cancelled.

    Raises:
        DeadlineError: it took too long, here or in the engine.
        NotRunningError: the engine gave it up.
    """
    texts = {index: make_text() for index in range(request.n)}
    end_s = asyncio.get_running_loop().time() + request.deadline_s
    async with aclosing(engine.generate(model_id, request)) as chunks:
        while (chunk := await _next(chunks, end_s)) is not None:
            if chunk.index not in texts:
                continue
            delta = _read_chunk(texts[chunk.index], chunk, first_index + chunk.index)
            if delta.finish_reason:
                del texts[chunk.index]
            yield delta
            if not texts:
                return
    raise NotRunningError("the engine ended the stream early", hint="try again in a moment")


async def _next(chunks: AsyncGenerator[TokenChunk, None], end_s: float) -> TokenChunk | None:
    """The next chunk, None at the end; the time in queues before the engine counts too."""
    try:
        async with asyncio.timeout_at(end_s):
            return await anext(chunks, None)
    except TimeoutError:
        raise late() from None


def merge(sources: Sequence[Deltas]) -> Deltas:
    """All deltas of several requests, as they come."""
    return sources[0] if len(sources) == 1 else _merge(sources)


async def _merge(sources: Sequence[Deltas]) -> Deltas:
    queue: asyncio.Queue[Delta | Exception | None] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(source, queue)) for source in sources]
    n_open = len(pumps)
    try:
        while n_open:
            item = await queue.get()
            if item is None:
                n_open -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class BegunDeltas:
    """Deltas whose first has come; unlike a generator's, its `aclose` works before any reading."""

    def __init__(self, first: Delta, rest: Deltas) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> Deltas:
        yield self._first
        async for delta in self._rest:
            yield delta

    async def aclose(self) -> None:
        """Close what the deltas are read from."""
        await self._rest.aclose()


async def begun(deltas: Deltas) -> BegunDeltas:
    """The same deltas, once the first is there: what fails before it is raised here."""
    try:
        first = await anext(deltas)
    except BaseException:
        await deltas.aclose()
        raise
    return BegunDeltas(first, deltas)


async def _pump(source: Deltas, queue: asyncio.Queue[Delta | Exception | None]) -> None:
    try:
        async with aclosing(source):
            async for delta in source:
                queue.put_nowait(delta)
    except Exception as error:  # noqa: BLE001 - raised again by `merge`
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)


def _read_chunk(text: TextStream, chunk: TokenChunk, index: int) -> Delta:
    reason = chunk.finish_reason
    if reason == "deadline":
        raise late()
    new, n_tokens = text.read(chunk.token_ids)
    if text.is_stopped:
        reason = "stop"
    elif reason:
        new += text.finish()
        reason = "stop" if text.is_stopped else reason
    return Delta(
        index, new, chunk.token_ids[:n_tokens], reason, chunk.logprobs[:n_tokens],
        chunk.prompt_logprobs, 0 if chunk.index else chunk.n_cached_tokens,
    )  # fmt: skip


def late() -> DeadlineError:
    """What a client is told whose time is up."""
    return DeadlineError("the answer was not finished in time", hint="ask for fewer tokens")
