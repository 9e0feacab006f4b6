"""`POST /v1/tokenize` and `/v1/detokenize`: texts and conversations to token ids and back.

Also without `/v1`, where vLLM has them and load generators look for them.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from mulm.chat import Message
from mulm.errors import ConfigError
from mulm.toolcalls import ToolUse, read_tools
from serve_app.caller import CallerDependency
from serve_app.openai_api.asked import size_of, texts_of
from serve_app.openai_api.chat import encode_chat, to_message
from serve_app.openai_api.chat_schemas import ChatMessage
from serve_app.openai_api.logprobs import TokenNames
from serve_app.openai_api.schemas import MAX_TURNS, Body, ListOf, TokenId
from serve_app.served import Served
from serve_app.service import ServiceDependency

router = APIRouter()


class TokenizeBody(Body):
    """A text, or a conversation; exactly one of them."""

    model: str
    prompt: str | None = None
    messages: Annotated[ListOf[ChatMessage], Field(min_length=1, max_length=MAX_TURNS)] | None = (
        None
    )
    tools: Any = None
    add_special_tokens: bool | None = None
    """Whether the token that begins a document stands before a text, as in a completion; yes."""
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "TokenizeBody":
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError(
                "invalid_value", "give prompt or messages", {"param": ("prompt",)}
            )
        return self


class DetokenizeBody(Body):
    """Token ids."""

    model: str
    tokens: ListOf[TokenId]


@router.post("/v1/tokenize", response_model=None)
@router.post("/tokenize", include_in_schema=False, response_model=None)
async def tokenize(
    body: TokenizeBody, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """The ids that the model would read."""
    served = service.model(body.model, caller.key)
    messages = [to_message(message) for message in body.messages or ()]
    size_bytes = size_of([body.prompt or "", *texts_of(messages)])
    written = await service.background.run(
        size_bytes, _tokenized, body, messages, read_tools(body.tools), served
    )
    return Response(written, media_type="application/json")


@router.post("/v1/detokenize", response_model=None)
@router.post("/detokenize", include_in_schema=False, response_model=None)
async def detokenize(
    body: DetokenizeBody, service: ServiceDependency, caller: CallerDependency
) -> Response:
    """The text of some ids; special ones have none, and bytes that are no UTF-8 become U+FFFD."""
    served = service.model(body.model, caller.key)
    written = await service.background.run(len(body.tokens), _detokenized, body.tokens, served)
    return Response(written, media_type="application/json")


def _tokenized(
    body: TokenizeBody, messages: Sequence[Message], use: ToolUse, served: Served
) -> bytes:
    """The answer as JSON, which of a long text takes a while too."""
    tokenizer = served.tokenizer
    if body.messages is not None:
        ids = encode_chat(messages, use, tokenizer)
    else:
        ids = tokenizer.encode(body.prompt or "")
        if body.add_special_tokens is not False:
            ids = [tokenizer.end_of_text_id, *ids]
    names = TokenNames(tokenizer)
    strings = [names.name(token_id) for token_id in ids] if body.return_token_strs else None
    return _json(count=len(ids), max_model_len=served.max_seq_len, tokens=ids, token_strs=strings)


def _detokenized(ids: Sequence[int], served: Served) -> bytes:
    unknown = next((i for i in ids if i >= served.tokenizer.vocab_size), None)
    if unknown is not None:
        raise ConfigError(
            f"token id {str(unknown)[:40]} is not in the vocabulary of"
            f" {served.tokenizer.vocab_size}",
            param="tokens",
        )
    return _json(prompt=served.tokenizer.decode(ids))


def _json(**values: Any) -> bytes:
    return json.dumps(values).encode()


@router.get("/v1/tokenizer_info")
@router.get("/tokenizer_info", include_in_schema=False)
async def tokenizer_info(
    service: ServiceDependency,
    caller: CallerDependency,
    model: Annotated[str | None, Query(max_length=256)] = None,
) -> dict[str, Any]:
    """Facts of a model's tokenizer, as evaluation tools look for them; of the first by default."""
    key = caller.key
    tokenizer = (service.first(key) if model is None else service.model(model, key)).tokenizer
    return {
        "vocab_size": tokenizer.vocab_size,
        "bos_token": _name(tokenizer.special_tokens, tokenizer.end_of_text_id),
        "eos_token": _name(tokenizer.special_tokens, tokenizer.text_stop_ids[0]),
        "pad_token": _name(tokenizer.special_tokens, tokenizer.pad_id),
    }


def _name(special_tokens: dict[str, int], token_id: int) -> str | None:
    return next((name for name, number in special_tokens.items() if number == token_id), None)
