"""From an engine's tokens to the texts of one answer's choices.

Called by `answer`. Invariants: texts and counts do not depend on how tokens were grouped on
their way; when one choice fails all are cancelled; closing an iterator closes what it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from mulm.data.tokenizer import Tokenizer
from mulm.errors import DeadlineError, NotRunningError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import EngineClient
from serve_app.openai_api.text import TextStream


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one choice: text (may be empty), new tokens, and how it ended if it did."""

    index: int
    text: str
    n_tokens: int
    finish_reason: Literal["stop", "length"] | None = None


Deltas = AsyncGenerator[Delta, None]


async def read_choice(
    engine: EngineClient,
    model_id: str,
    request: GenerateRequest,
    tokenizer: Tokenizer,
    stops: Sequence[str],
    index: int,
) -> Deltas:
    """One choice until it ends; at a stop string the request is cancelled.

    Raises:
        DeadlineError: it took too long, here or in the engine.
        NotRunningError: the engine gave it up.
    """
    text = TextStream(tokenizer, stops)
    end_s = asyncio.get_running_loop().time() + request.deadline_s
    async with aclosing(engine.generate(model_id, request)) as chunks:
        while (chunk := await _next(chunks, end_s)) is not None:
            delta = _read_chunk(text, chunk, index)
            yield delta
            if delta.finish_reason:
                return
    raise NotRunningError("the engine ended the stream early", hint="try again in a moment")


async def _next(chunks: AsyncGenerator[TokenChunk, None], end_s: float) -> TokenChunk | None:
    """The next chunk, None at the end; the time in queues before the engine counts too."""
    try:
        async with asyncio.timeout_at(end_s):
            return await anext(chunks, None)
    except TimeoutError:
        raise _late() from None


async def merge(sources: Sequence[Deltas]) -> Deltas:
    """All deltas of several choices, as they come."""
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
    pieces: list[str] = []
    n_tokens = 0
    for token_id in chunk.token_ids:
        n_tokens += 1
        pieces.append(text.push(token_id))
        if text.is_stopped:
            return Delta(index, "".join(pieces), n_tokens, "stop")
    match chunk.finish_reason:
        case "deadline":
            raise _late()
        case "stop" | "length" as reason:
            pieces.append(text.finish())
            return Delta(index, "".join(pieces), n_tokens, "stop" if text.is_stopped else reason)
    return Delta(index, "".join(pieces), n_tokens)


def _late() -> DeadlineError:
    return DeadlineError("the answer was not finished in time", hint="ask for fewer tokens")
