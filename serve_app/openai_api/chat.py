"""`POST /v1/chat/completions`: answers a conversation."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from mulm.chat import Message, render
from mulm.data.tokenizer import Tokenizer
from serve_app.openai_api.answer import answer
from serve_app.openai_api.choices import Delta
from serve_app.openai_api.schemas import ChatBody, ChatMessage
from serve_app.service import RequestIdDependency, ServiceDependency

router = APIRouter()


class ChatFormat:
    """Choices that hold a `message`, or a `delta` of it."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prompt_param = "messages"
    default_max_tokens: int | None = None

    def choice(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        """As `Format.choice`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
        }

    def chunk_choices(self, delta: Delta, is_first: bool) -> list[dict[str, Any]]:
        """As `Format.chunk_choices`: the role first, then text, then an empty end."""
        choices = []
        if is_first:
            choices.append(_chunk(delta.index, {"role": "assistant", "content": ""}))
        if delta.text:
            choices.append(_chunk(delta.index, {"content": delta.text}))
        if delta.finish_reason:
            choices.append(_chunk(delta.index, {}, delta.finish_reason))
        return choices


@router.post("/v1/chat/completions", response_model=None)
async def create_chat_completion(
    body: ChatBody, service: ServiceDependency, request_id: RequestIdDependency
) -> Response:
    """Answer as the assistant."""
    served = service.model(body.model)
    prompt = await asyncio.to_thread(encode_chat, body.messages, served.tokenizer)
    stop_ids = served.tokenizer.stop_ids
    return await answer(service, served, [prompt], body, stop_ids, ChatFormat(), request_id)


def encode_chat(messages: Sequence[ChatMessage], tokenizer: Tokenizer) -> list[int]:
    """A conversation begins a document, as in training: the token of a beginning stands first."""
    rendered = render([to_message(message) for message in messages], tokenizer)
    return [tokenizer.end_of_text_id, *rendered]


def to_message(message: ChatMessage) -> Message:
    """A client's message as our template reads it; a developer speaks as the system."""
    role = "system" if message.role == "developer" else message.role
    return Message(role=role, content=message.text)


def _chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
