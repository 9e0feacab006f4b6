"""`/api/v1/runs`: start runs, see how they stand, pause, resume and cancel them."""

import asyncio
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from actors.run_starter import Started
from mulm.config import Frozen, load_config
from mulm.errors import ConfigError, NotFoundError, nearest
from mulm.records import Claim, Event, Phase
from mulm.runs.continued import require_as_begun
from mulm.runs.curve import finite, thinned
from mulm.runs.identity import IDENTITIES, pinned, run_id_of
from mulm.runs.kinds import SCHEMAS, name_of, references_of
from mulm.runs.standing import Standing
from mulm.train.config import TrainConfig
from mulm.train.exporters.registry import require_exporters
from serve_app.control_api.body_words import also_over_http, named_in_body
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.event_stream import (
    LastEventId,
    begin_behind,
    event_stream,
    wants_stream,
)
from serve_app.control_api.idempotency import Once, OnceDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, page
from serve_app.openai_api.stream import STREAMED

router = APIRouter(prefix="/api/v1/runs", tags=["runs"], dependencies=ALL_SCOPE, responses=PROBLEMS)

_NOTHING_MORE: dict[str, Any] = {"description": "The run has ended, and all was told."}
DONE_BEFORE: dict[str, Any] = {"description": "This run was finished before."}
_MAX_LINES = 10_000
_WITH_SETTINGS = frozenset({"train", "compress"})
"""Kinds whose configs have settings beside the result that clients choose; ids cost no reading."""


class NewRun(Frozen):
    """What to do: a kind of work, and its config as in a file."""

    kind: Literal[
        "prepare", "train_tokenizer", "train", "evaluate", "compress", "model_export",
        "model_import",
    ]  # fmt: skip
    config: Annotated[dict[str, Any], Field(max_length=256)]


class ResumeBody(Frozen):
    """How a run goes on."""

    set: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=64)] = ()
    """What changes that has no part in the result, as `--set` takes it: `["workers=1"]`."""
    also_cancelled: bool = False
    """Whether it may have been cancelled."""


@router.get("")
def list_runs(
    control: ControlDependency,
    kind: Annotated[str | None, Query(max_length=64)] = None,
    phase: Phase | None = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, Any]:
    """All runs, newest first."""
    found = control.facts.runs(kind, phase, after, limit + 1)
    if kind is not None and not found and kind not in SCHEMAS:
        raise ConfigError(f"no such kind: {kind!r}", hint=nearest(kind, SCHEMAS), param="kind")
    return page(control.desk.stand(found), limit, _described)


@router.post("", status_code=202, responses={200: DONE_BEFORE}, response_model=None)
def create_run(body: NewRun, control: ControlDependency, once: OnceDependency) -> Response:
    """Start a run. The same config is the same run: a finished one is answered, not repeated.

    One that is under way keeps the settings with which it began: others are refused.
    """
    return begun_once(once, control, body.kind, body.config, "config.")


@router.get("/{run_id}")
def get_run(run_id: str, control: ControlDependency) -> dict[str, Any]:
    """One run, with its config, what it reads and its result."""
    found = control.desk.one(run_id)
    references = {
        field: {"kind": kind, "ref": ref} for field, (kind, ref) in references_of(found.run).items()
    }
    return _described(found) | {"config": found.run.config, "references": references}


@router.get("/{run_id}/events", response_model=None, responses=STREAMED | {204: _NOTHING_MORE})
async def get_events(
    run_id: str,
    request: Request,
    control: ControlDependency,
    after: Annotated[int, Query(ge=0, lt=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    kind: Annotated[list[str] | None, Query(max_length=16)] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """What happened in a run, in order: a page, or with `Accept: text/event-stream` as it happens.

    A stream begins behind `Last-Event-ID`, which browsers send by themselves, or behind `after`;
    there is no gap and nothing twice; behind a number that is not there yet it begins with what
    happens from now on. It ends when the run has ended.
    """
    if wants_stream(request):
        return await _stream(request, control, run_id, begin_behind(last_event_id, after))
    return JSONResponse(
        await asyncio.to_thread(_events_page, control, run_id, after, limit, tuple(kind or ()))
    )


@router.get("/{run_id}/metrics")
def get_metrics(
    run_id: str,
    control: ControlDependency,
    every: Annotated[int | None, Query(ge=1)] = None,
    last: Annotated[int | None, Query(ge=1)] = None,
) -> dict[str, Any]:
    """The numbers of a training run, a row for each step that was reported."""
    control.facts.run(run_id)
    rows = control.curves.of(run_id)
    return {"object": "list", "data": thinned(rows, every, last), "has_more": False}


@router.get("/{run_id}/logs")
def get_logs(
    run_id: str,
    control: ControlDependency,
    lines: Annotated[int, Query(ge=1, le=_MAX_LINES)] = 200,
) -> PlainTextResponse:
    """The last lines that the run's process printed."""
    control.desk.one(run_id)
    return PlainTextResponse(control.desk.log_tail(run_id, lines))


@router.post("/{run_id}/pause", status_code=202)
def pause_run(run_id: str, control: ControlDependency) -> dict[str, Any]:
    """Have a run write a checkpoint and end, to go on later."""
    with also_over_http():
        return _described(control.desk.ask_to_pause(run_id))


@router.post("/{run_id}/cancel", status_code=202)
def cancel_run(run_id: str, control: ControlDependency) -> dict[str, Any]:
    """End a run for good; its checkpoints stay."""
    with also_over_http():
        return _described(control.desk.ask_to_cancel(run_id))


@router.post("/{run_id}/resume", status_code=202)
def resume_run(
    run_id: str, control: ControlDependency, body: ResumeBody | None = None
) -> dict[str, Any]:
    """Go on with a run that was paused or has failed, from its newest checkpoint."""
    body = body or ResumeBody()
    found = control.desk.one(run_id)
    with also_over_http():
        control.starter.go_on(found, body.set, also_cancelled=body.also_cancelled)
    return _described(control.desk.one(run_id))


def begun_once(
    once: Once, control: Control, kind: str, config: dict[str, Any], where: str = ""
) -> Response:
    """Start a run, or find it finished: the answer to whoever asked for it.

    `where` in the body the config stands is told with what is wrong in it.
    """
    with named_in_body(SCHEMAS[kind], where):
        return once.answer(
            lambda claim: _start(control, kind, config, claim),
            lambda run_id, _: _begun(control, control.starter.start_again(run_id)),
        )


def _start(
    control: Control, kind: str, values: dict[str, Any], claim: Claim | None
) -> JSONResponse:
    if kind in _WITH_SETTINGS:
        config = pinned(load_config(SCHEMAS[kind], values), control.facts)
        identity = IDENTITIES[kind](config, control.facts, control.store)
        with suppress(NotFoundError):
            require_as_begun(control.desk.one(run_id_of(kind, config, identity)), config)
        if isinstance(config, TrainConfig):
            require_exporters(config.export_to)
    return _begun(control, control.starter.start(kind, values, claim))


def _begun(control: Control, started: Started) -> JSONResponse:
    found = control.desk.one(started.run_id)
    location = {"location": f"/api/v1/runs/{started.run_id}"}
    return JSONResponse(_described(found), 202 if started.is_begun else 200, location)


def _described(found: Standing) -> dict[str, Any]:
    run = found.run
    return {
        "id": run.id,
        "object": "run",
        "kind": run.kind,
        "name": name_of(run),
        "phase": run.phase,
        "is_living": found.is_living,
        "created_at": int(run.created_s),
        "updated_at": int(run.updated_s),
        "result": run.result,
        "error": run.error,
    }


def _event(found: Event) -> dict[str, Any]:
    return {
        "id": str(found.seq),
        "object": "run.event",
        "run_id": found.run_id,
        "seq": found.seq,
        "created_at": found.time_s,
        "kind": found.kind,
        "data": finite(found.data),
    }


def _events_page(
    control: Control, run_id: str, after: int, limit: int, kinds: tuple[str, ...]
) -> dict[str, Any]:
    control.facts.run(run_id)
    return page(control.facts.events(run_id, after, limit + 1, kinds), limit, _event)


async def _stream(request: Request, control: Control, run_id: str, after: int) -> Response:
    events = control.feed.events(run_id, after)
    first: Event | None = await anext(events, None)
    if first is None:  # nothing will come any more: a browser that hears this asks no more
        return Response(status_code=204)
    return event_stream(request, events, _event, first)
