"""`/api/v1/deployments`: what is served, by which model, with how many engines."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.config import Frozen, parse_config
from mulm.errors import ConfigError, ConflictError, NotFoundError, TokenizerMismatchError
from mulm.records import Claim, Deployment
from mulm.refs import parse_ref
from serve_app.canary import Canary
from serve_app.control_api.body_words import named_in_body
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, Control, ControlDependency
from serve_app.control_api.deployment_words import described, revision, revision_id
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, behind, page
from serve_app.control_api.precondition import (
    CHANGED,
    IfMatch,
    IfNoneMatch,
    PreconditionError,
    seen_before,
)
from serve_app.deployment_spec import DeploymentSpec, spec_of, unread
from serve_app.serve_plan import pinned, plan_serving
from serve_app.settings import AppArgs

router = APIRouter(
    prefix="/api/v1/deployments", tags=["deployments"], dependencies=ALL_SCOPE, responses=PROBLEMS
)

Name = Annotated[str, Path(max_length=64)]
Settings = Annotated[dict[str, Any], Field(max_length=64)]
_BACK = "back to revision "
_MOST_LOOKS = 16
_MAY_CHANGE: dict[int | str, dict[str, Any]] = {412: CHANGED}


class RollbackBody(Frozen):
    """Which revision shall be served again."""

    revision: Annotated[int, Field(strict=True, ge=1, lt=2**31)] | None = None
    """By default the newest before what is served now that had another model or other settings."""


@router.get("")
def list_deployments(
    control: ControlDependency, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> dict[str, Any]:
    """All deployments, by name, with their engines."""
    found = behind(control.facts.deployments(), after, lambda each: each.name)
    return page(found, limit, lambda each: described(control.served, each))


@router.post("", status_code=202)
def create_deployment(body: AppArgs, control: ControlDependency, once: OnceDependency) -> Response:
    """Serve a model under its own name, or under `served_name`."""
    return once.answer(
        lambda claim: _create(body, control, claim), lambda name, _: _told(control, name, 202)
    )


def _create(body: AppArgs, control: Control, claim: Claim | None) -> JSONResponse:
    try:
        return _put(control, body, only_from=0, claim=claim)
    except PreconditionError:
        raise ConflictError(
            f"a deployment {body.name!r} is there already", hint="PUT changes it"
        ) from None


@router.get("/{name}")
def get_deployment(name: Name, control: ControlDependency) -> JSONResponse:
    """One deployment: how it stands, its settings, its engines."""
    return _told(control, name, 200)


@router.put("/{name}", status_code=202, responses=_MAY_CHANGE)
def put_deployment(
    name: Name,
    body: AppArgs,
    control: ControlDependency,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> JSONResponse:
    """Serve this under that name; another model is taken over without a failed request."""
    _require_named(body.served_name, name)
    args = body.model_copy(update={"served_name": name})
    seen = seen_before(if_match, if_none_match, lambda: _revision(control, name))
    if seen is None and _serves_it(control, name, args):
        return _told(control, name, 202)
    return _put(control, args, seen)


@router.patch("/{name}", status_code=202, responses=_MAY_CHANGE)
def patch_deployment(
    name: Name, body: Settings, control: ControlDependency, if_match: IfMatch = None
) -> JSONResponse:
    """Change some settings: `{"max_replicas": 4}` scales it, `{"model": "demo@5"}` renews it.

    What holds already changes nothing.
    """
    _require_named(body.get("served_name"), name)
    spec, now = _spec(control, name, seen_before(if_match, None, lambda: _revision(control, name)))
    given = spec.args.model_dump(mode="json") | body | {"served_name": name}
    with named_in_body(AppArgs):
        args = parse_config(AppArgs, given)
    if _serves_it(control, name, args):
        return _told(control, name, 202)
    return _put(control, args, now, spec.canary)


@router.delete("/{name}", status_code=204, responses=_MAY_CHANGE)
def delete_deployment(name: Name, control: ControlDependency, if_match: IfMatch = None) -> Response:
    """Serve it no more; what it is answering comes to its end."""
    control.facts.deployment(name)
    seen = seen_before(if_match, None, lambda: _revision(control, name))
    with _precondition():
        control.facts.set_deployment(name, None, "removed", seen)
    return Response(status_code=204)


@router.get("/{name}/history")
def list_revisions(
    name: Name, control: ControlDependency, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> dict[str, Any]:
    """What was served under that name, and why it changed, the newest first."""
    found = control.facts.deployment_history(name)
    if not found:
        raise NotFoundError(f"there never was a deployment {name!r}")
    return page(behind(found, after, revision_id), limit, revision)


@router.put("/{name}/canary", status_code=202, responses=_MAY_CHANGE)
def put_canary(
    name: Name, body: Canary, control: ControlDependency, if_match: IfMatch = None
) -> JSONResponse:
    """Let another model answer a share of the requests; it ends by itself where it fails."""
    spec, now = _spec(control, name, seen_before(if_match, None, lambda: _revision(control, name)))
    canary = body.model_copy(update={"model": pinned(control.facts, body.model)})
    _require_another(control, spec, canary)
    changed = spec.model_copy(update={"canary": canary})
    assert changed.canary_args is not None
    _plan(control, changed.canary_args)
    return _write(control, changed, f"canary {canary.model} for {canary.weight:g} %", now)


@router.delete("/{name}/canary", status_code=202, responses=_MAY_CHANGE)
def delete_canary(name: Name, control: ControlDependency, if_match: IfMatch = None) -> JSONResponse:
    """End the canary: all requests go to the deployment's own model."""
    spec, now = _spec(control, name, seen_before(if_match, None, lambda: _revision(control, name)))
    _require_canary(spec)
    return _write(control, spec.model_copy(update={"canary": None}), "canary ended", now)


@router.post("/{name}/promote", status_code=202, responses=_MAY_CHANGE)
def promote_canary(
    name: Name, control: ControlDependency, if_match: IfMatch = None
) -> JSONResponse:
    """Let the canary's model answer everything."""
    spec, now = _spec(control, name, seen_before(if_match, None, lambda: _revision(control, name)))
    canary = _require_canary(spec)
    args = spec.args.model_copy(update={"model": canary.model})
    return _put(control, args, now, reason=f"canary {canary.model} promoted")


@router.post("/{name}/rollback", status_code=202, responses=_MAY_CHANGE)
def roll_back(
    name: Name,
    control: ControlDependency,
    body: RollbackBody | None = None,
    if_match: IfMatch = None,
) -> JSONResponse:
    """Serve again what a revision served before, without its canary."""
    spec, now = _spec(control, name, seen_before(if_match, None, lambda: _revision(control, name)))
    before = _earlier(control, spec, body.revision if body else None)
    return _put(control, spec_of(before).args, now, reason=f"{_BACK}{before.revision}")


def _serves_it(control: Control, name: str, args: AppArgs) -> bool:
    """Whether this is served already, so that nothing changes; what has failed is begun anew."""
    try:
        found = control.facts.deployment(name)
    except NotFoundError:
        return False
    if unread(found) or control.served.status(name, found.revision)[0] == "failed":
        return False
    return spec_of(found).args == _plan(control, args)


def _revision(control: Control, name: str) -> int:
    try:
        return control.facts.deployment(name).revision
    except NotFoundError:
        return 0


def _spec(control: Control, name: str, seen: int | None) -> tuple[DeploymentSpec, int]:
    """What is served, and its revision, of which a change is made."""
    found = control.facts.deployment(name)
    if seen is not None and seen != found.revision:
        raise PreconditionError(f"the deployment is at revision {found.revision} by now")
    return spec_of(found), found.revision


def _earlier(control: Control, spec: DeploymentSpec, revision: int | None) -> Deployment:
    history = control.facts.deployment_history(spec.name)
    stands = _stands_for(history)
    for each in history:
        if each.spec is None:
            continue
        is_before = each.revision < stands and spec_of(each).args != spec.args
        if each.revision == revision or (revision is None and is_before):
            return each
    wanted = f"before revision {stands}" if revision is None else f"in revision {revision}"
    raise NotFoundError(f"{spec.name} has served nothing else {wanted}", param="revision")


def _stands_for(history: Sequence[Deployment]) -> int:
    """The revision whose settings are served: where one went back, that to which it did.

    So going back twice leads on to what was before, not back and forth.
    """
    reasons = {each.revision: each.reason for each in history}
    revision = history[0].revision
    while (reason := reasons.get(revision, "")).startswith(_BACK):
        revision = int(reason.removeprefix(_BACK))
    return revision


def _require_another(control: Control, spec: DeploymentSpec, canary: Canary) -> None:
    """An alias may point to what is served for now: it moves."""
    served = str(spec.args.ref)
    if parse_ref(served).alias is not None and parse_ref(canary.model).alias is None:
        served = control.facts.resolve("model", parse_ref(served)).ref
    if canary.model == served:
        raise ConflictError(
            f"{spec.name} serves {served} already", hint="name another version as its canary"
        )


def _require_canary(spec: DeploymentSpec) -> Canary:
    if spec.canary is None:
        raise ConflictError(f"{spec.name} has no canary", hint="PUT one first")
    return spec.canary


def _put(
    control: Control,
    args: AppArgs,
    only_from: int | None,
    canary: Canary | None = None,
    reason: str | None = None,
    claim: Claim | None = None,
) -> JSONResponse:
    planned = _plan(control, args)
    spec = DeploymentSpec(args=planned, canary=canary)
    if spec.canary_args is not None:
        _plan(control, spec.canary_args)
    return _write(control, spec, reason or f"serve {planned.model}", only_from, claim)


def _plan(control: Control, args: AppArgs) -> AppArgs:
    """The settings, pinned. Raises what `plan_serving` does, as mistakes of the client."""
    try:
        planned = plan_serving(args, control.store, control.facts).args
    except TokenizerMismatchError as error:
        raise ConflictError(error.message, hint=error.hint) from None
    return planned.model_copy(update={"served_name": planned.name})


def _write(
    control: Control,
    spec: DeploymentSpec,
    reason: str,
    only_from: int | None,
    claim: Claim | None = None,
) -> JSONResponse:
    """Note it; the ledger refuses where another deployment came or changed after the look."""
    written = spec.model_dump(mode="json")
    for _ in range(_MOST_LOOKS):
        others = [each for each in control.facts.deployments() if each.name != spec.name]
        _require_own_names(others, spec)
        beside = {each.name: each.revision for each in others}
        with _precondition():
            noted = control.facts.set_deployment(
                spec.name, written, reason, only_from, beside, claim
            )
        if noted is not None:
            return _told(control, spec.name, 202)
    raise ConflictError("other deployments change all the time", hint="try again in a moment")


def _require_own_names(others: Sequence[Deployment], spec: DeploymentSpec) -> None:
    for each in others:
        if unread(each):
            continue  # it serves nothing
        shared = spec_of(each).names & spec.names
        if shared:
            raise ConflictError(
                f"{min(shared)!r} is served by the deployment {each.name!r} already",
                hint="choose another name",
            )


@contextmanager
def _precondition() -> Iterator[None]:
    """A deployment that is not at the revision which it must be at is another answer than 409."""
    try:
        yield
    except ConflictError as error:
        raise PreconditionError(error.message, hint=error.hint) from None


def _told(control: Control, name: str, status: int) -> JSONResponse:
    found = control.facts.deployment(name)
    headers = {"etag": f'"{found.revision}"'}
    if status != 200:
        headers["location"] = f"/api/v1/deployments/{name}"
    return JSONResponse(described(control.served, found), status, headers)


def _require_named(served_name: object, name: str) -> None:
    """Refuse a body that names another deployment than its address."""
    if served_name not in (None, name):
        raise ConfigError(
            f"served_name: the address says {name!r}",
            hint="leave it out, or ask the address of that name",
            param="served_name",
        )
