"""`/api/v1/runs/...`: what a run left and wrote, runs side by side, a run made of another."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from mulm.config import Frozen
from mulm.errors import ConfigError
from mulm.runs.compare import Contender, compare
from mulm.runs.digest import all_events, checkpoints
from mulm.runs.kinds import TRAIN
from mulm.runs.samples import newest_samples
from mulm.train.config import TrainConfig
from serve_app.control_api.body_words import named_in_body
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.runs import DONE_BEFORE, begun_once

router = APIRouter(prefix="/api/v1/runs", tags=["runs"], dependencies=ALL_SCOPE, responses=PROBLEMS)

_MOST_BESIDE = 16
Others = Annotated[list[str], Query(alias="with", min_length=1, max_length=_MOST_BESIDE)]


class Changes(Frozen):
    """What shall be otherwise than in the run that another is made of."""

    config: Annotated[dict[str, Any], Field(max_length=256)]


@router.post("/estimate")
def estimate_run(body: Changes, control: ControlDependency) -> dict[str, Any]:
    """What a training would be, before it begins: shape, memory, steps, and what was chosen why."""
    with named_in_body(TrainConfig, "config."):
        return control.estimate(body.config)


@router.get("/{run_id}/checkpoints")
def get_checkpoints(run_id: str, control: ControlDependency) -> dict[str, Any]:
    """The checkpoints that are kept, oldest first."""
    control.facts.run(run_id)
    found = checkpoints(control.facts, run_id, control.desk.folder(run_id) / "checkpoints")
    return _all(found)


@router.get("/{run_id}/samples")
def get_samples(
    run_id: str,
    control: ControlDependency,
    last: Annotated[int | None, Query(ge=1)] = None,
) -> dict[str, Any]:
    """What the model wrote after fixed prompts, as its training went."""
    control.facts.run(run_id)
    return _all(newest_samples(all_events(control.facts, run_id, "sample"), last))


@router.get("/{run_id}/compare")
def compare_runs(run_id: str, others: Others, control: ControlDependency) -> dict[str, Any]:
    """Training runs side by side, the best first: configs, curves at common steps, speed."""
    found = compare([_contender(control, each) for each in dict.fromkeys([run_id, *others])])
    return {
        "object": "comparison",
        "judged_by": found.judged_by,
        "runs": found.runs,
        "differences": found.differences,
        "steps": found.steps,
    }


@router.post("/{run_id}/fork", status_code=202, responses={200: DONE_BEFORE})
def fork_run(
    run_id: str, body: Changes, control: ControlDependency, once: OnceDependency
) -> Response:
    """Start a run like this one, with some keys of its config otherwise."""
    run = control.facts.run(run_id)
    return begun_once(once, control, run.kind, run.config | body.config, "config.")


def _contender(control: Control, run_id: str) -> Contender:
    run = control.facts.run(run_id)
    if run.kind != TRAIN:
        raise ConfigError(f"{run_id} is of the kind {run.kind!r}", hint="trainings are compared")
    return Contender(run, control.curves.of(run_id))


def _all(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": found, "has_more": False}
