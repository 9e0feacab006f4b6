"""`/v1/responses`: answers an input, and goes on with what was answered before."""

from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from mulm.chat import Message
from mulm.data.tokenizer import Tokenizer
from mulm.errors import MulmError
from mulm.toolcalls import ToolUse, read_tools
from serve_app.caller import CallerDependency, WaitingDependency
from serve_app.errors import error_body
from serve_app.openai_api.answer import generate
from serve_app.openai_api.asked import (
    Asked,
    cut,
    named_by_client,
    require_room,
    require_room_for_turns,
    size_of,
    texts_of,
)
from serve_app.openai_api.chat import encode_chat, held
from serve_app.openai_api.choices import BegunDeltas
from serve_app.openai_api.logprobs import TokenNames
from serve_app.openai_api.response_writer import Event, ResponseWriter
from serve_app.openai_api.responses_schemas import ResponsesBody
from serve_app.openai_api.schemas import only
from serve_app.openai_api.stream import STREAMED, EventStream, catch, event
from serve_app.service import ServiceDependency

router = APIRouter()

_PARAM = "previous_response_id"

_None = Annotated[str | None, Query(include_in_schema=False), only(None)]
_Includes = Annotated[str | None, Query(alias="include[]", include_in_schema=False), only(None)]
_NotTrue = Annotated[str | None, Query(include_in_schema=False), only(None, "false")]
"""What OpenAI's clients may ask of a response that is kept, and we do not have."""


@router.post("/v1/responses", response_model=None, responses=STREAMED)
async def create_response(
    body: ResponsesBody,
    service: ServiceDependency,
    caller: WaitingDependency,
) -> Response:
    """Answer an input."""
    served = service.model(body.model, caller.key)
    use = read_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    grammar, grammar_param = held(use, *body.held)
    before = body.previous_response_id
    turns = [*service.responses.get(caller.key.id, before, _PARAM).messages] if before else []
    turns += body.messages
    if body.truncate_prompt_tokens is None:
        require_room([body.instructions or ""], served, "instructions")
        require_room_for_turns(turns[-1:] if body.truncation == "auto" else turns, served, "input")
    with named_by_client(messages="input"):
        prompt = await service.background.run(
            size_of([body.instructions or "", *texts_of(turns)]),
            _encode, turns, body, use, served.tokenizer, served.max_seq_len,
        )  # fmt: skip
    asked = Asked(
        body, [cut(prompt, body)], served.tokenizer.stop_ids, "input", grammar, grammar_param,
        may_call=use.mode != "none",
    )  # fmt: skip
    names = TokenNames(served.tokenizer) if body.n_logprobs is not None else None
    writer = ResponseWriter(body, served.name, use, names, len(asked.prompts[0]))
    deltas = await generate(served, asked, caller)

    def keep() -> None:
        if body.store is not False:
            service.responses.put(caller.key.id, writer.response, [*turns, writer.message])

    events = _events(writer, deltas, keep)
    if body.stream:
        return EventStream(events, deltas, encode=_encode_events)
    async for _event in events:
        pass
    return JSONResponse(writer.response)


@router.get("/v1/responses/{response_id}")
async def get_response(
    response_id: str,
    service: ServiceDependency,
    caller: CallerDependency,
    stream: _NotTrue = None,  # noqa: ARG001 - its type refuses it
    include: _None = None,  # noqa: ARG001 - its type refuses it
    includes: _Includes = None,  # noqa: ARG001 - its type refuses it
    starting_after: _None = None,  # noqa: ARG001 - its type refuses it
    include_obfuscation: _NotTrue = None,  # noqa: ARG001 - its type refuses it
) -> dict[str, Any]:
    """One that is kept."""
    return service.responses.get(caller.key.id, response_id).body


@router.delete("/v1/responses/{response_id}")
async def delete_response(
    response_id: str, service: ServiceDependency, caller: CallerDependency
) -> dict[str, Any]:
    """Forget one."""
    service.responses.delete(caller.key.id, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def _encode(
    turns: list[Message], body: ResponsesBody, use: ToolUse, tokenizer: Tokenizer, window: int
) -> list[int]:
    """The prompt; with `truncation: auto` without the oldest turns, as far as it must."""
    first = [Message(role="system", content=body.instructions)] if body.instructions else []

    def encode(n_left_out: int) -> list[int]:
        return encode_chat([*first, *turns[n_left_out:]], use, tokenizer)

    ids = encode(0)
    room = window - (body.max_output_tokens or 1)
    if body.truncation == "auto" and len(ids) > room:
        # Results of tools go with the call before them; the last turn stays.
        cuts = [n for n in range(1, len(turns)) if turns[n].role != "tool"]
        at = bisect_left(cuts, True, key=lambda n: len(encode(n)) <= room)
        return encode(cuts[min(at, len(cuts) - 1)] if cuts else 0)
    return ids


async def _events(
    writer: ResponseWriter, deltas: BegunDeltas, keep: Callable[[], None]
) -> AsyncGenerator[Event, None]:
    for begun in writer.begin():
        yield begun
    async with aclosing(deltas):
        async for delta in deltas:
            for told in writer.add(delta):
                if told["type"] in ("response.completed", "response.incomplete"):
                    keep()
                yield told


async def _encode_events(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    """Each with its name, as this endpoint's clients read them."""
    n_events = 0

    def failure(error: MulmError) -> Event:
        told = error_body(error)["error"]
        facts = {name: told[name] for name in ("code", "message", "param")}
        return {"type": "error", **facts, "sequence_number": n_events}

    async for item in catch(events, failure):
        yield event(item, item["type"])
        n_events += 1
