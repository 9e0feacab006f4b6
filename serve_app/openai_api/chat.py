"""`POST /v1/chat/completions`: answers a conversation."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from mulm.chat import Message, ToolCall, render
from mulm.data.tokenizer import Tokenizer
from mulm.errors import ConfigError
from mulm.messages import Grammar
from mulm.tool_turns import check_turns
from mulm.toolcall_parser import ContentDelta, ToolCallDelta, ToolCallParser
from mulm.toolcalls import ToolUse, read_tools
from serve_app.caller import WaitingDependency
from serve_app.openai_api.answer import answer
from serve_app.openai_api.asked import Asked, cut, require_room_for_turns, size_of, texts_of
from serve_app.openai_api.chat_schemas import ChatBody, ChatMessage
from serve_app.openai_api.choices import Delta
from serve_app.openai_api.finished import Finished
from serve_app.openai_api.logprobs import TokenNames, chat_logprobs
from serve_app.openai_api.stream import STREAMED
from serve_app.service import ServiceDependency

router = APIRouter()


class ChatFormat:
    """Choices that hold a `message`, or a `delta` of it; calls of tools are found in the text."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, use: ToolUse, names: TokenNames | None) -> None:
        self._use, self._names = use, names
        self._parsers: dict[int, ToolCallParser | None] = {}

    def choice(self, finished: Finished) -> dict[str, Any]:
        """As `Format.choice`."""
        parser = self._use.parser()
        content, calls = read_calls(parser, finished.text, finished.finish_reason == "length")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        logprobs = None
        if self._names is not None:
            logprobs = {"content": chat_logprobs(finished.logprobs, self._names), "refusal": None}
        return {
            "index": finished.index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": reason_of(finished.finish_reason, has_called=bool(calls)),
        }

    def chunk_choices(self, delta: Delta) -> list[dict[str, Any]]:
        """As `Format.chunk_choices`: the role first, then text and calls, then an empty end."""
        parts: list[dict[str, Any]] = []
        if delta.index not in self._parsers:
            self._parsers[delta.index] = self._use.parser()
            parts.append({"role": "assistant", "content": "", "refusal": None})
        parser = self._parsers[delta.index]
        parts += _parts(parser, delta)
        choices = [_chunk(delta.index, part) for part in parts]
        if self._names is not None and delta.logprobs:
            # Those of tokens whose text is held back come with what is sent now.
            choices = choices or [_chunk(delta.index, {})]
            choices[-1]["logprobs"] = {
                "content": chat_logprobs(delta.logprobs, self._names),
                "refusal": None,
            }
        if delta.finish_reason:
            has_called = parser is not None and parser.n_calls > 0
            reason = reason_of(delta.finish_reason, has_called=has_called)
            choices.append(_chunk(delta.index, {}, reason))
        return choices


@router.post("/v1/chat/completions", response_model=None, responses=STREAMED)
async def create_chat_completion(
    body: ChatBody, service: ServiceDependency, caller: WaitingDependency
) -> Response:
    """Answer as the assistant."""
    served = service.model(body.model, caller.key)
    use = read_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    grammar, grammar_param = held(use, *body.held)
    messages = [to_message(message) for message in body.messages]
    if body.truncate_prompt_tokens is None:
        require_room_for_turns(messages, served, "messages")
    size_bytes = size_of(texts_of(messages))
    prompt = await service.background.run(size_bytes, encode_chat, messages, use, served.tokenizer)
    stop_ids = served.tokenizer.stop_ids
    asked = Asked(
        body, [cut(prompt, body)], stop_ids, "messages", grammar, grammar_param,
        may_call=use.mode != "none",
    )  # fmt: skip
    names = TokenNames(served.tokenizer) if body.logprobs else None
    return await answer(served, asked, ChatFormat(use, names), caller)


def held(use: ToolUse, grammar: Grammar | None, param: str) -> tuple[Grammar | None, str]:
    """What an answer is held to: the form of calls, or the form that the client asked for.

    Raises:
        ConfigError: both.
    """
    if use.mode == "none":
        return grammar, param
    if grammar is not None:
        raise ConfigError(
            f"{param} cannot hold an answer that may call tools",
            hint="leave one of them out, or set tool_choice to none",
            param=param,
        )
    return use.grammar(), "tools"


def encode_chat(messages: Sequence[Message], use: ToolUse, tokenizer: Tokenizer) -> list[int]:
    """A conversation begins a document, as in training: the token of a beginning stands first."""
    rendered = render(check_turns(messages), tokenizer, tools=use.described)
    return [tokenizer.end_of_text_id, *rendered]


def to_message(message: ChatMessage) -> Message:
    """A client's message as our template reads it; a developer speaks as the system."""
    role = "system" if message.role == "developer" else message.role
    calls = tuple(
        ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
        for call in message.tool_calls or ()
    )
    return Message(
        role=role, content=message.text, tool_calls=calls, tool_call_id=message.tool_call_id
    )


def reason_of(finish_reason: str, *, has_called: bool) -> str:
    """How a choice ended; one that was cut short says so, whatever it had begun to call."""
    return "tool_calls" if has_called and finish_reason == "stop" else finish_reason


def read_calls(
    parser: ToolCallParser | None, text: str, is_cut: bool = False
) -> tuple[str, list[dict[str, Any]]]:
    """A whole answer's content and its calls."""
    if parser is None:
        return text, []
    content = ""
    calls: list[dict[str, Any]] = []
    for delta in [*parser.push(text), *parser.finish(is_cut)]:
        if isinstance(delta, ContentDelta):
            content += delta.text
        elif delta.index == len(calls):
            function = {"name": delta.name, "arguments": delta.arguments}
            calls.append({"id": delta.id, "type": "function", "function": function})
        else:
            calls[delta.index]["function"]["arguments"] += delta.arguments
    return content, calls


def _parts(parser: ToolCallParser | None, delta: Delta) -> list[dict[str, Any]]:
    if parser is None:
        return [{"content": delta.text}] if delta.text else []
    found = parser.push(delta.text)
    if delta.finish_reason:
        found += parser.finish(delta.finish_reason == "length")
    return [
        {"content": part.text}
        if isinstance(part, ContentDelta)
        else {"tool_calls": [_call_part(part)]}
        for part in found
    ]


def _call_part(part: ToolCallDelta) -> dict[str, Any]:
    if part.id is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}


def _chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
