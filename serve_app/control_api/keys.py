"""`/api/v1/keys`: who may use the service, for what, and how much."""

import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.accounts import HOUR_S, Key, KeyLimits, Scope
from mulm.config import Frozen
from mulm.errors import ConflictError, nearest
from mulm.facts import Facts
from mulm.field_words import Label
from mulm.records import Claim
from serve_app.auth import KeyRing
from serve_app.caller import CallerDependency
from serve_app.control_api.control import (
    ALL_SCOPE,
    ALL_SCOPE_NOW,
    PROBLEMS,
    Control,
    ControlDependency,
)
from serve_app.control_api.idempotency import OnceDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, behind, page
from serve_app.deployment_spec import spec_of, unread
from serve_app.keys import FIRST_KEY_NAME, NEW_FIRST, MadeKey, make_key

router = APIRouter(prefix="/api/v1/keys", tags=["keys"], dependencies=ALL_SCOPE, responses=PROBLEMS)

_EVER_S = 2**40 * HOUR_S
"""One stretch that holds all times."""

_WIDE = "a key of the scope all can serve other models and make keys for them all the same"

MAX_OVERLAP_S = 30 * 86400
_MAX_LIFE_S = 100 * 366 * 86400


async def _ring(request: Request) -> KeyRing:
    ring: KeyRing = request.app.state.keys
    return ring


RingDependency = Annotated[KeyRing, Depends(_ring)]
Models = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=256)
]
Life = Annotated[int, Field(strict=True, ge=1, le=_MAX_LIFE_S)]


class NewKey(Frozen):
    """Whose it will be, what for, and how much it may use."""

    name: Label
    scope: Scope = "inference"
    models: Models = ()
    """What clients call the models that it may ask; all of them where none is named."""
    expires_in_s: Life | None = None
    limits: KeyLimits = KeyLimits()


class KeyChange(Frozen):
    """What is to be otherwise; what is not given stays, of `limits` too: null there lifts one."""

    name: Label | None = None
    models: Models | None = None
    expires_in_s: Life | None = None
    """From now on; null is for ever."""
    limits: Annotated[
        KeyLimits | None,
        Field(description="Those that change: what is not given stays, null lifts one."),
    ] = None


class Rotation(Frozen):
    """How the old secret ends."""

    overlap_s: Annotated[int, Field(strict=True, ge=0, le=MAX_OVERLAP_S)] = 0
    """Seconds for which it stays valid beside the new one."""


@router.get("")
def list_keys(
    control: ControlDependency, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> dict[str, Any]:
    """All keys that were not revoked, oldest first; their texts are known to nobody any more."""
    found = behind(control.facts.valid_keys(), after, lambda key: key.id)
    return page(found, limit, described)


@router.post("", status_code=201, response_model=None, dependencies=ALL_SCOPE_NOW)
def create_key(
    body: NewKey, control: ControlDependency, ring: RingDependency, once: OnceDependency
) -> Response:
    """Make a key. The answer is the only place where its text is ever shown."""

    def make(claim: Claim | None) -> JSONResponse:
        return _shown_once(control, ring, issue(control.facts, ring.secret, body, claim))

    def again(key_id: str, claim: Claim) -> JSONResponse:
        # Nobody knows the secret that was made by a process which was killed.
        return _shown_once(control, ring, reissue(control.facts, ring.secret, key_id, 0.0, claim))

    return once.answer(make, again, is_secret=True)


def issue(
    facts: Facts, secret: bytes, order: NewKey, claim: Claim | None = None
) -> tuple[Key, MadeKey]:
    """Make a key as ordered. Raises ConflictError where another key has the name."""
    _require_free(order.name)
    made = make_key(secret)
    key = facts.add_key(
        made.id, made.digest, order.name, order.scope, order.models, _end(order.expires_in_s),
        order.limits, claim,
    )  # fmt: skip
    return key, made


def reissue(
    facts: Facts, secret: bytes, key_id: str, overlap_s: float, claim: Claim | None = None
) -> tuple[Key, MadeKey]:
    """Give a key another secret. Raises NotFoundError."""
    made = make_key(secret, facts.key(key_id).id)
    facts.rotate_key(key_id, made.digest, overlap_s, claim)
    return facts.key(key_id), made


@router.get("/{key_id}")
def get_key(key_id: str, control: ControlDependency) -> dict[str, Any]:
    """One key: what it is for, its limits, and what it has used in all."""
    key = control.facts.key(key_id)
    return described(key) | {"usage": _used(control, key)}


@router.patch("/{key_id}", dependencies=ALL_SCOPE_NOW)
def change_key(
    key_id: str, body: KeyChange, control: ControlDependency, ring: RingDependency
) -> dict[str, Any]:
    """Change a key's name, models, end or limits; in force within five seconds.

    What is not given stays, also each of the limits; one that is null is lifted. Of two changes at
    the same moment one is told 409 `conflict`.
    """
    key = control.facts.key(key_id)
    if body.name is not None and body.name != key.name:
        _require_free(body.name)
    given = body.model_fields_set
    changes: dict[str, Any] = {
        name: value
        for name in ("name", "models")
        if name in given and (value := getattr(body, name)) is not None
    }
    if body.limits is not None:
        otherwise = body.limits.model_dump(exclude_unset=True)
        changes["limits"] = key.limits.model_copy(update=otherwise)
    if "expires_in_s" in given:
        changes["expires_s"] = _end(body.expires_in_s)
    control.facts.change_key(replace(key, **changes), key)
    ring.look_again()
    found = control.facts.key(key_id)
    return described(found) | {"hint": _end_hint(found) or unserved_hint(control.facts, found)}


@router.post("/{key_id}/rotate", response_model=None, dependencies=ALL_SCOPE_NOW)
def rotate_key(
    key_id: str,
    body: Rotation,
    control: ControlDependency,
    ring: RingDependency,
    once: OnceDependency,
) -> Response:
    """Give a key another secret. The answer is the only place where it is ever shown.

    Name, limits and usage stay; the secret before it is refused after `overlap_s` seconds.
    """

    def rotate(claim: Claim | None) -> JSONResponse:
        issued = reissue(control.facts, ring.secret, key_id, body.overlap_s, claim)
        return _shown_once(control, ring, issued, status=200)

    # Once more it ends alike: what nobody has seen ends with the overlap, as what was before it.
    return once.answer(rotate, lambda _, claim: rotate(claim), is_secret=True)


@router.delete("/{key_id}", status_code=204, dependencies=ALL_SCOPE_NOW)
def delete_key(
    key_id: str, control: ControlDependency, ring: RingDependency, caller: CallerDependency
) -> Response:
    """Revoke a key: it is refused within five seconds."""
    if key_id == caller.key.id:
        raise ConflictError("a key cannot revoke itself", hint="use another key")
    control.facts.remove_key(key_id)
    ring.look_again()
    return Response(status_code=204)


def described(key: Key) -> dict[str, Any]:
    """A key as the API tells it."""
    return {
        "id": key.id,
        "object": "key",
        "name": key.name,
        "scope": key.scope,
        "models": list(key.models),
        "created_at": int(key.created_s),
        "expires_at": None if key.expires_s is None else int(key.expires_s),
        "limits": key.limits.model_dump(),
    }


def _used(control: Control, key: Key) -> dict[str, Any]:
    """What was written until now; the last seconds may be missing."""
    rows = control.facts.usage(key.id, bucket_s=_EVER_S)
    n_tokens, quota = sum(row.tokens for row in rows), key.limits.token_quota
    return {
        "requests": sum(row.requests for row in rows),
        "input_tokens": sum(row.input_tokens for row in rows),
        "output_tokens": sum(row.output_tokens for row in rows),
        "quota_left": None if quota is None else max(0, quota - n_tokens),
        "by_model": {row.model: row.tokens for row in rows},
    }


def unserved_hint(facts: Facts, key: Key) -> str | None:
    """What the owner of a key should know of models that it is for; None where nothing is odd.

    A key may come before what it is for, so it is not refused; but a name may be mistyped.
    """
    read = [each for each in facts.deployments() if not unread(each)]
    served = {name for each in read for name in spec_of(each).names}
    missing = [name for name in key.models if name not in served]
    if not missing:
        return _WIDE if key.models and key.scope == "all" else None
    hint = nearest(missing[0], served) if served else "`mulm serve` does it"
    return f"nothing is served as {missing[0]!r} now: {hint}"


def _end_hint(key: Key) -> str | None:
    """What a first key that ends leaves behind; None of others."""
    if key.name != FIRST_KEY_NAME or key.expires_s is None:
        return None
    return f"the commands of this machine end with this key: {NEW_FIRST} then"


def _shown_once(
    control: Control, ring: KeyRing, issued: tuple[Key, MadeKey], status: int = 201
) -> JSONResponse:
    key, made = issued
    ring.look_again()
    headers = {"location": f"/api/v1/keys/{key.id}", "cache-control": "no-store"}
    told = described(key) | {"key": made.text, "hint": unserved_hint(control.facts, key)}
    return JSONResponse(told, status, headers)


def _require_free(name: str) -> None:
    if name == FIRST_KEY_NAME:
        raise ConflictError(
            f"{name!r} is the name of the key that `mulm up` makes",
            hint="choose another name",
            param="name",
        )


def _end(expires_in_s: int | None) -> float | None:
    return None if expires_in_s is None else time.time() + expires_in_s
