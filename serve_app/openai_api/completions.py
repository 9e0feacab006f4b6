"""`POST /v1/completions`: goes on with a text."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from mulm.data.tokenizer import Tokenizer
from serve_app.openai_api.answer import answer
from serve_app.openai_api.choices import Delta
from serve_app.openai_api.schemas import CompletionBody
from serve_app.service import RequestIdDependency, ServiceDependency

router = APIRouter()


class CompletionFormat:
    """Choices that hold `text`."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"
    prompt_param = "prompt"
    default_max_tokens: int | None = 16

    def choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        """As `Format.choice`."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def chunk_choices(self, delta: Delta, is_first: bool) -> list[dict[str, Any]]:
        """As `Format.chunk_choices`."""
        if not (delta.text or delta.finish_reason or is_first):
            return []
        return [self.choice(delta.index, delta.text, delta.finish_reason)]


@router.post("/v1/completions", response_model=None)
async def create_completion(
    body: CompletionBody, service: ServiceDependency, request_id: RequestIdDependency
) -> Response:
    """Complete one or more prompts."""
    served = service.model(body.model)
    tokenizer = served.tokenizer
    prompts = await asyncio.to_thread(encode_prompts, body.prompt, tokenizer)
    stop_ids = tokenizer.text_stop_ids
    return await answer(service, served, prompts, body, stop_ids, CompletionFormat(), request_id)


def encode_prompts(
    prompt: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]], tokenizer: Tokenizer
) -> list[list[int]]:
    """Token ids of each prompt.

    Texts begin a document, as in training: `<|endoftext|>` stands before them. Ids are taken as
    they are.
    """
    if isinstance(prompt, str):
        return [_encode(prompt, tokenizer)]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids:
        return [ids]
    return [
        _encode(item, tokenizer) if isinstance(item, str) else list(item)
        for item in prompt
        if not isinstance(item, int)
    ]


def _encode(text: str, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.end_of_text_id, *tokenizer.encode(text)]
