"""`/v1/batches`: many requests of an uploaded file, answered when there is time.

A batch is a run of the kind `batch` (`mulm.batch`) under OpenAI's names. Invariant: nothing of a
batch stands elsewhere than in its run and in the files that it made.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import JSONResponse, Response

from actors.run_starter import Started
from mulm.batch import WINDOW_S, Endpoint
from mulm.errors import ConfigError, NotFoundError
from mulm.records import Claim, Event, Run
from mulm.refs import new_id
from mulm.runs.standing import Standing
from serve_app.caller import CallerDependency
from serve_app.control_api.control import ALL_SCOPE, Control, ControlDependency
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import page
from serve_app.openai_api.schemas import Body, Metadata, Unsupported

router = APIRouter(prefix="/v1/batches", tags=["batches"], dependencies=ALL_SCOPE)

KIND = PURPOSE = "batch"
_BEGUN = ("running", "pausing", "paused")


class BatchBody(Body):
    """A file of requests, all for one route."""

    input_file_id: Annotated[str, Field(max_length=128)]
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata = None
    output_expires_after: Unsupported = None


@router.post("", response_model=None)
def create_batch(
    body: BatchBody, control: ControlDependency, once: OnceDependency, caller: CallerDependency
) -> Response:
    """Begin to answer a file of requests, within the limits of the key that asks."""
    return once.answer(
        lambda claim: _begun(control, _started(control, body, caller.key.id, claim)),
        lambda run_id, _: _begun(control, control.starter.start_again(run_id)),
    )


@router.get("")
def list_batches(
    control: ControlDependency,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> dict[str, Any]:
    """All batches, newest first."""
    if after is not None:
        _found(control, after)
    found = control.desk.stand(control.facts.runs(KIND, None, after, limit + 1))
    return page(found, limit, lambda standing: _described(control, standing))


@router.get("/{batch_id}")
def get_batch(batch_id: str, control: ControlDependency) -> dict[str, Any]:
    """How a batch stands."""
    return _described(control, _found(control, batch_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, control: ControlDependency) -> dict[str, Any]:
    """End a batch for good; what was answered stays in its files."""
    _found(control, batch_id)
    return _described(control, control.desk.ask_to_cancel(batch_id))


def _begun(control: Control, started: Started) -> JSONResponse:
    return JSONResponse(_described(control, control.desk.one(started.run_id)))


def _started(control: Control, body: BatchBody, key_id: str, claim: Claim | None) -> Started:
    try:
        purpose = control.facts.file(body.input_file_id).purpose
    except NotFoundError as error:
        raise NotFoundError(error.message, hint=error.hint, param="input_file_id") from None
    if purpose != PURPOSE:
        raise ConfigError(
            f"input_file_id: the file is for {purpose!r}",
            hint=f"upload it with the purpose {PURPOSE}",
            param="input_file_id",
        )
    config = {
        "nonce": new_id("batch"),
        "endpoint": body.endpoint,
        "input_file": body.input_file_id,
        "metadata": body.metadata or {},
        "key_id": key_id,
    }
    return control.starter.start(KIND, config, claim)


def _found(control: Control, batch_id: str) -> Standing:
    found = control.desk.one(batch_id)
    if found.run.kind != KIND:
        raise NotFoundError(f"no batch {batch_id[:64]!r}")
    return found


def _status(found: Standing, progress: Event | None) -> str:
    run = found.run
    if run.phase == "succeeded":
        return "expired" if (run.result or {}).get("expired") else "completed"
    if run.phase == "cancelled":
        return "cancelling" if found.is_living else "cancelled"
    if run.phase in ("failed", "finalizing"):
        return run.phase
    return "in_progress" if run.phase in _BEGUN and progress else "validating"


def _described(control: Control, found: Standing) -> dict[str, Any]:
    run, facts = found.run, control.facts
    progress, files = facts.last_event(run.id, "progress"), facts.last_event(run.id, "files")
    status = _status(found, progress)
    made = files.data if files else {}
    counted = progress.data if progress else {}
    n_failed = int(counted.get("failed", 0))
    ended_at = int(run.updated_s) if run.has_ended else None
    return {
        "id": run.id,
        "object": "batch",
        "endpoint": run.config.get("endpoint"),
        "input_file_id": run.config.get("input_file"),
        "completion_window": "24h",
        "status": status,
        "errors": _errors(control, run),
        "output_file_id": made.get("output"),
        "error_file_id": made.get("errors"),
        "created_at": int(run.created_s),
        "expires_at": int(run.created_s + WINDOW_S),
        "completed_at": ended_at if status == "completed" else None,
        "expired_at": ended_at if status == "expired" else None,
        "failed_at": ended_at if status == "failed" else None,
        "cancelling_at": ended_at if run.phase == "cancelled" else None,
        "cancelled_at": ended_at if status == "cancelled" else None,
        "request_counts": {
            "total": int(counted.get("total", 0)),
            "completed": int(counted.get("done", 0)) - n_failed,
            "failed": n_failed,
        },
        "metadata": run.config.get("metadata") or {},
    }


def _errors(control: Control, run: Run) -> dict[str, Any] | None:
    if run.phase != "failed" or run.error is None:
        return None
    invalid = control.facts.last_event(run.id, "invalid")
    whole = {"code": run.error["code"], "message": run.error["message"], "line": None}
    return {
        "object": "list",
        "data": invalid.data["errors"] if invalid else [whole | {"param": None}],
    }
