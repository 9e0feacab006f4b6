"""`/v1/fine_tuning/jobs`: models that learn uploaded conversations.

A job is a run of the kind `fine_tune` (`mulm.train.fine_tune`) under OpenAI's names; it is seen and
steered under `/api/v1/runs` too. Invariant: nothing of a job stands elsewhere than in its run.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, Response

from actors.run_starter import Started
from mulm.errors import ConfigError, NotFoundError
from mulm.records import Claim, Event, Phase
from mulm.refs import parse_ref
from mulm.runs.curve import STEP, Row, finite
from mulm.runs.digest import all_events
from mulm.runs.standing import Standing
from serve_app.control_api.control import ALL_SCOPE, Control, ControlDependency
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import page
from serve_app.openai_api.fine_tuning_schemas import FineTuneBody

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], dependencies=ALL_SCOPE)

KIND = "fine_tune"
PURPOSE = "fine-tune"
STATUS: dict[Phase, str] = {
    "queued": "queued",
    "preparing": "validating_files",
    "running": "running",
    "finalizing": "running",
    "pausing": "running",
    "paused": "paused",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""OpenAI's words for the phases of a run."""

Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(max_length=128)]
_EVENT, _CHECKPOINT = "ftevent_", "ftckpt_"
_MAX_DIGITS = 18


@router.post("", response_model=None)
def create_job(body: FineTuneBody, control: ControlDependency, once: OnceDependency) -> Response:
    """Fine-tune a model. The same model, files and settings are the same job."""
    return once.answer(
        lambda claim: _begun(control, _started(control, body, claim)),
        lambda run_id, _: _begun(control, control.starter.start_again(run_id)),
    )


@router.get("")
def list_jobs(control: ControlDependency, limit: Limit = 20, after: After = None) -> dict[str, Any]:
    """All jobs, newest first."""
    if after is not None:
        _found(control, after)
    runs = control.facts.runs(KIND, None, after, limit + 1)
    return page(control.desk.stand(runs), limit, _described)


@router.get("/{job_id}")
def get_job(job_id: str, control: ControlDependency) -> dict[str, Any]:
    """How a job stands."""
    return _described(_found(control, job_id))


@router.get("/{job_id}/events")
def list_events(
    job_id: str, control: ControlDependency, limit: Limit = 20, after: After = None
) -> dict[str, Any]:
    """What happened in a job, the newest first."""
    _found(control, job_id)
    newest = control.facts.last_event(job_id)
    stop = (newest.seq + 1 if newest else 1) if after is None else _number(after, _EVENT)
    start = max(0, stop - 1 - (limit + 1))
    found = control.facts.events(job_id, start, max(0, stop - 1 - start))
    return page(found[::-1], limit, _event)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, control: ControlDependency, limit: Limit = 10, after: After = None
) -> dict[str, Any]:
    """The checkpoints that were written, the newest first; the job goes on from them."""
    _found(control, job_id)
    before = None if after is None else _number(after, _CHECKPOINT)
    written = [
        event
        for event in all_events(control.facts, job_id, "checkpoint")
        if before is None or event.seq < before
    ]
    rows = {row[STEP]: row for row in control.curves.of(job_id)}
    return page(
        written[::-1][: limit + 1],
        limit,
        lambda event: _checkpoint(event, rows.get(event.data.get(STEP), {})),
    )


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, control: ControlDependency) -> dict[str, Any]:
    """End a job for good."""
    _found(control, job_id)
    return _described(control.desk.ask_to_cancel(job_id))


@router.post("/{job_id}/pause")
def pause_job(job_id: str, control: ControlDependency) -> dict[str, Any]:
    """Have a job write a checkpoint and end, to go on later."""
    _found(control, job_id)
    return _described(control.desk.ask_to_pause(job_id))


@router.post("/{job_id}/resume")
def resume_job(job_id: str, control: ControlDependency) -> dict[str, Any]:
    """Go on with a job that was paused or has failed."""
    control.starter.go_on(_found(control, job_id))
    return _described(_found(control, job_id))


def _begun(control: Control, started: Started) -> JSONResponse:
    return JSONResponse(_described(control.desk.one(started.run_id)))


def _started(control: Control, body: FineTuneBody, claim: Claim | None) -> Started:
    for field in ("training_file", "validation_file"):
        if (file_id := getattr(body, field)) is not None:
            _require_purpose(control, field, file_id)
    chosen = body.chosen
    config = {
        "name": f"{parse_ref(body.model).name}-{body.suffix or 'ft'}",
        "model": body.model,
        "training_file": body.training_file,
        "validation_file": body.validation_file,
        "n_epochs": chosen.n_epochs,
        "batch_size": chosen.batch_size,
        "learning_rate_multiplier": chosen.learning_rate_multiplier,
        "lora": body.lora,
        "seed": body.seed or 0,
        "metadata": body.metadata or {},
    }
    return control.starter.start(KIND, config, claim)


def _require_purpose(control: Control, field: str, file_id: str) -> None:
    try:
        purpose = control.facts.file(file_id).purpose
    except NotFoundError as error:
        raise NotFoundError(error.message, hint=error.hint, param=field) from None
    if purpose != PURPOSE:
        raise ConfigError(
            f"{field}: the file is for {purpose!r}",
            hint=f"upload it with the purpose {PURPOSE}",
            param=field,
        )


def _found(control: Control, job_id: str) -> Standing:
    found = control.desk.one(job_id)
    if found.run.kind != KIND:
        raise NotFoundError(f"no fine-tuning job {job_id[:64]!r}")
    return found


def _described(found: Standing) -> dict[str, Any]:
    run = found.run
    config, result, error = run.config, run.result or {}, run.error
    keys = ("n_epochs", "batch_size", "learning_rate_multiplier")
    chosen = {key: config.get(key, "auto") for key in keys}
    return {
        "id": run.id,
        "object": "fine_tuning.job",
        "model": config.get("model"),
        "status": STATUS[run.phase],
        "created_at": int(run.created_s),
        "finished_at": int(run.updated_s) if run.has_ended else None,
        "estimated_finish": None,
        "training_file": config.get("training_file"),
        "validation_file": config.get("validation_file"),
        "fine_tuned_model": result.get("model"),
        "trained_tokens": result.get("trained_tokens"),
        "hyperparameters": chosen,
        "method": {"type": "supervised", "supervised": {"hyperparameters": chosen}},
        "seed": config.get("seed", 0),
        "metadata": config.get("metadata") or {},
        "error": error and {"code": error["code"], "message": error["message"], "param": None},
        "result_files": [],
        "integrations": [],
        "organization_id": "mulm",
        "lora": config.get("lora", False),
    }


def _event(found: Event) -> dict[str, Any]:
    is_metric = found.kind == "metric"
    return {
        "id": f"{_EVENT}{found.seq}",
        "object": "fine_tuning.job.event",
        "created_at": int(found.time_s),
        "level": "error" if found.data.get("error") else "info",
        "message": _message(found),
        "type": "metrics" if is_metric else "message",
        "data": finite(found.data),
    }


def _message(found: Event) -> str:
    data = found.data
    if found.kind == "phase":
        error = data.get("error")
        return f"the job is {data.get('phase')}" + (f": {error['message']}" if error else "")
    if found.kind == "metric":
        return f"step {data.get(STEP)}"
    if found.kind == "checkpoint":
        return f"checkpoint at step {data.get(STEP)}"
    if found.kind == "stage":
        return f"{data.get('name')}: {data.get('text')}"
    return str(data.get("text") or found.kind)


def _checkpoint(found: Event, row: Row) -> dict[str, Any]:
    step = found.data.get(STEP)
    numbers = {**row, "train_loss": row.get("loss"), "valid_loss": row.get("validation_loss")}
    return {
        "id": f"{_CHECKPOINT}{found.seq}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(found.time_s),
        "fine_tuning_job_id": found.run_id,
        "fine_tuned_model_checkpoint": f"{found.run_id}:step-{step}",
        "step_number": step,
        "metrics": numbers,
    }


def _number(text: str, prefix: str) -> int:
    digits = text.removeprefix(prefix)
    is_one = text.startswith(prefix) and digits.isascii() and digits.isdigit()
    if not is_one or len(digits) > _MAX_DIGITS:
        raise NotFoundError(f"there is no {text[:64]!r} in this list", param="after")
    return int(digits)
