"""`POST /v1/embeddings`: the mean of a text's last hidden states.

A language model's own view of a text, not one trained for comparing texts: of use for clustering
and search among similar texts, and free where the model is served already.
"""

import asyncio
import base64
import math
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.errors import ConfigError, ContextLengthError, NotRunningError
from mulm.messages import GenerateRequest, SamplingParams, TokenChunk
from serve_app.caller import WaitingDependency
from serve_app.openai_api.asked import named_by_client, require_room, size_of
from serve_app.openai_api.choices import late
from serve_app.openai_api.schemas import Body, ListOf, TokenIdLists, TokenIds
from serve_app.served import Served
from serve_app.service import ServiceDependency

router = APIRouter()

MAX_INPUTS = 256
_AT_ONCE = 16
"""Inputs of one request that the engine has at the same time."""

Text = Annotated[str, Field(min_length=1)]


class EmbeddingBody(Body):
    """`POST /v1/embeddings`."""

    model: str
    input: Text | TokenIds | Annotated[ListOf[Text], Field(min_length=1)] | TokenIdLists
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """The first so many numbers, scaled to length 1 again."""
    user: str | None = None
    """Noted by nobody."""


@router.post("/v1/embeddings", response_model=None)
async def create_embeddings(
    body: EmbeddingBody, service: ServiceDependency, caller: WaitingDependency
) -> Response:
    """Embed one or more texts; each is a vector of length 1."""
    served = service.model(body.model, caller.key)
    texts = [body.input] if isinstance(body.input, str) else body.input
    size_bytes = size_of(text for text in texts if isinstance(text, str))
    inputs = await service.background.run(size_bytes, encode_inputs, body, served)
    timeout_s = min(served.request_timeout_s, caller.timeout_s)
    end_s = asyncio.get_running_loop().time() + timeout_s
    requests = [_request(served, ids, f"{caller.request_id}-{n}") for n, ids in enumerate(inputs)]
    n_tokens = sum(map(len, inputs))
    caller.ticket.reserve(served.name, n_tokens)
    gate = asyncio.Semaphore(_AT_ONCE)
    tasks = [asyncio.create_task(_embed(served, one, gate, end_s)) for one in requests]
    try:
        with named_by_client(prompt="input"):
            found = await asyncio.gather(*tasks)
        vectors = [_unit(each, body.dimensions) for each in found]
        caller.ticket.spend(n_tokens, 0)
    except asyncio.CancelledError:
        caller.ticket.spend(n_tokens, 0)
        raise
    finally:
        for task in tasks:
            task.cancel()
    data = [
        {"object": "embedding", "index": index, "embedding": _written(vector, body)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage})


def encode_inputs(body: EmbeddingBody, served: Served) -> list[Sequence[int]]:
    """Token ids of each input; texts begin a document, as in training.

    Raises:
        ConfigError: they are too many.
        ContextLengthError: one is too long, by far.
    """
    given = [body.input] if isinstance(body.input, str) else body.input
    ids = [item for item in given if isinstance(item, int)]
    if ids:
        return [ids]
    if len(given) > MAX_INPUTS:
        raise ConfigError(f"{len(given)} inputs, more than {MAX_INPUTS}", param="input")
    for item in given:
        require_room([item] if isinstance(item, str) else [], served, "input")
    begin, encode = served.tokenizer.end_of_text_id, served.tokenizer.encode
    return [
        [begin, *encode(item)] if isinstance(item, str) else item
        for item in given
        if not isinstance(item, int)
    ]


def _request(served: Served, ids: Sequence[int], request_id: str) -> GenerateRequest:
    if len(ids) > served.max_seq_len:
        raise ContextLengthError(
            f"the model's window is {served.max_seq_len} tokens; an input has {len(ids)}",
            hint="shorten it",
            param="input",
        )
    sampling = SamplingParams(max_tokens=0)
    return GenerateRequest(
        request_id,
        tuple(ids),
        sampling,
        served.request_timeout_s,
        adapter=served.adapter_id,
        is_embedding=True,
    )


async def _embed(
    served: Served,
    request: GenerateRequest,
    gate: asyncio.Semaphore,
    end_s: float,
) -> tuple[float, ...]:
    """The vector of one input. Raises DeadlineError at `end_s`, whatever it waits for."""
    try:
        async with asyncio.timeout_at(end_s), gate:
            left_s = end_s - asyncio.get_running_loop().time()
            rest = replace(request, deadline_s=left_s, is_hurried=True)  # by those before it too
            async with aclosing(served.engine.generate(served.model_id, rest)) as chunks:
                return await _vector(chunks)
    except TimeoutError:
        raise late() from None


async def _vector(chunks: AsyncGenerator[TokenChunk, None]) -> tuple[float, ...]:
    async for chunk in chunks:
        if chunk.embedding:
            return chunk.embedding
        if chunk.finish_reason == "deadline":
            raise late()
    raise NotRunningError("the engine ended early", hint="try again in a moment")


def _unit(vector: Sequence[float], n_dimensions: int | None) -> list[float]:
    if n_dimensions is not None and n_dimensions > len(vector):
        raise ConfigError(f"the model has {len(vector)} dimensions", param="dimensions")
    kept = vector[:n_dimensions]
    length = math.sqrt(math.fsum(x * x for x in kept)) or 1.0
    return [x / length for x in kept]


def _written(vector: Sequence[float], body: EmbeddingBody) -> Any:
    """As numbers, or as the bytes of little-endian fp32, which official clients ask for."""
    if body.encoding_format != "base64":
        return vector
    return base64.b64encode(array("f", vector).tobytes()).decode()
