"""`/api/v1/evaluations`: how good models are; and promotion, which asks that."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.config import Frozen
from mulm.errors import ConflictError
from mulm.eval.config import EvaluateConfig
from mulm.eval.gate import Verdict, judge, judge_beside
from mulm.facts import Facts
from mulm.records import Run
from mulm.refs import Ref, check_alias, check_name, parse_ref
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, ControlDependency
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, behind, page
from serve_app.control_api.precondition import CHANGED, PreconditionError
from serve_app.control_api.runs import DONE_BEFORE, begun_once

router = APIRouter(
    prefix="/api/v1", tags=["evaluations"], dependencies=ALL_SCOPE, responses=PROBLEMS
)

_KIND = "evaluate"
_MAY_CHANGE: dict[int | str, dict[str, Any]] = {412: CHANGED}

_LETS_WORSE_THROUGH = "`max_worse_percent` lets one through that is worse by so much"
_UNASKED = "PUT sets the alias without asking evaluations"

Measures = dict[str, dict[str, Any]]
"""The result of the newest evaluation of one version, by the id of the dataset it was judged on."""


class NotGoodEnoughError(ConflictError):
    """A model does not pass the gate, or was never measured."""

    code = "not_good_enough"


class Promotion(Frozen):
    """Which version an alias shall point to, if it is good enough."""

    version: Annotated[int, Field(strict=True, ge=1, lt=2**31)]
    max_worse_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How many more bits per byte than now are let through."""


@router.get("/evaluations")
def list_evaluations(
    control: ControlDependency,
    model: Annotated[str | None, Query(max_length=128)] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, Any]:
    """Evaluations that succeeded, of all models or of one version, newest first.

    A name without a version means the newest, an alias what it points to.
    """
    ref = model and control.facts.resolve("model", parse_ref(model)).ref
    found = [run for run in _succeeded(control.facts) if ref in (None, _model_of(run))]
    return page(behind(found, after, lambda run: run.id), limit, _described)


@router.post("/evaluations", status_code=202, responses={200: DONE_BEFORE})
def create_evaluation(
    body: EvaluateConfig, control: ControlDependency, once: OnceDependency
) -> Response:
    """Measure a model: a run of the kind `evaluate`."""
    values = body.model_dump(mode="json")
    return begun_once(once, control, _KIND, values)


@router.post("/models/{name}/aliases/{alias}/promote", responses=_MAY_CHANGE)
def promote(
    name: Annotated[str, Path(max_length=64)],
    alias: Annotated[str, Path(max_length=32)],
    body: Promotion,
    control: ControlDependency,
) -> JSONResponse:
    """Let an alias point to a version that an evaluation has found good enough.

    Beside the version that it points to now, on the same held-out text; an alias that is not there
    yet takes a version that predicts its text better than `xz -9e` packs it.
    """
    check_name(name)
    check_alias(alias)
    facts = control.facts
    candidate = facts.resolve("model", Ref(name, version=body.version))
    now = facts.aliases("model", name).get(alias, 0)
    verdict = _verdict(facts, candidate.ref, f"{name}@{now}" if now else None, body)
    if not verdict.passes:
        why = f"{candidate.ref} does not pass: {verdict.reason}"
        is_beside = now not in (0, candidate.number)
        raise NotGoodEnoughError(why, hint=_LETS_WORSE_THROUGH if is_beside else _UNASKED)
    try:
        facts.set_alias("model", name, alias, candidate.number, now)
    except ConflictError as error:
        raise PreconditionError(error.message, hint=error.hint) from None
    told = {"id": f"{name}@{alias}", "object": "alias", "alias": alias, "version": candidate.number}
    return JSONResponse(told | {"ref": candidate.ref, "reason": verdict.reason})


def _verdict(facts: Facts, candidate: str, current: str | None, asked: Promotion) -> Verdict:
    """Whether it may take the place. Raises NotGoodEnoughError where nothing was measured."""
    mine = _measures(facts, candidate)
    if current in (None, candidate):
        for result in mine.values():
            return judge(result["bits_per_byte"], result["xz_bits_per_byte"])
    theirs = _measures(facts, str(current))
    for dataset, result in mine.items():
        if dataset in theirs:
            now = theirs[dataset]["bits_per_byte"]
            return judge_beside(result["bits_per_byte"], now, asked.max_worse_percent)
    both = candidate if current in (None, candidate) else f"{candidate} and {current}"
    raise NotGoodEnoughError(
        f"there are no bits per byte of {both} on one dataset",
        hint="POST /api/v1/evaluations measures them",
    )


def _measures(facts: Facts, ref: str) -> Measures:
    found: Measures = {}
    for run in _succeeded(facts):
        result = run.result or {}
        if _model_of(run) == ref and "bits_per_byte" in result:
            found.setdefault(result["dataset_id"], result)
    return found


def _succeeded(facts: Facts) -> list[Run]:
    return facts.runs(_KIND, "succeeded")


def _model_of(run: Run) -> str:
    return str(run.config.get("model"))


def _described(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "object": "evaluation",
        "model": _model_of(run),
        "created_at": int(run.created_s),
        "ended_at": int(run.updated_s),
        "result": run.result,
    }
