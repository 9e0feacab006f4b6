"""`/api/v1/events`: whatever happens to the installation, in one order."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from mulm.records import Happening
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.event_stream import (
    LastEventId,
    begin_behind,
    event_stream,
    wants_stream,
)
from serve_app.control_api.page import page
from serve_app.openai_api.stream import STREAMED

router = APIRouter(
    prefix="/api/v1/events", tags=["events"], dependencies=ALL_SCOPE, responses=PROBLEMS
)


@router.get("", response_model=None, responses=STREAMED)
async def list_happenings(
    request: Request,
    control: ControlDependency,
    after: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    last_event_id: LastEventId = None,
) -> Response:
    """Runs that move, versions, aliases, deployments, files and keys that come, change and go.

    A page, or with `Accept: text/event-stream` as it happens: behind `Last-Event-ID` or `after`,
    without them, or with a number that is not there yet, from now on. It does not end by itself.
    """
    if not wants_stream(request):
        return JSONResponse(await asyncio.to_thread(_page, control, after or 0, limit))
    if after is None and last_event_id is None:
        after = await asyncio.to_thread(control.facts.last_happening)
    happenings = control.feed.happenings(begin_behind(last_event_id, after or 0))
    return event_stream(request, happenings, _described)


def _page(control: Control, after: int, limit: int) -> dict[str, Any]:
    return page(control.facts.happenings(after, limit + 1), limit, _described)


def _described(found: Happening) -> dict[str, Any]:
    return {
        "id": str(found.seq),
        "object": "event",
        "seq": found.seq,
        "created_at": found.time_s,
        "kind": found.kind,
        "subject": found.subject,
        "data": found.data,
    }
