"""`/api/v1/keys`: who may use the service."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from mulm.config import Frozen
from mulm.errors import ConflictError
from mulm.facts import Key, Scope
from serve_app.auth import KeyRing
from serve_app.control_api.control import ALL_SCOPE, PROBLEMS, ControlDependency
from serve_app.control_api.page import DEFAULT_LIMIT, After, Limit, behind, page
from serve_app.keys import make_key
from serve_app.service import KeyIdDependency

router = APIRouter(prefix="/api/v1/keys", tags=["keys"], dependencies=ALL_SCOPE, responses=PROBLEMS)


def _ring(request: Request) -> KeyRing:
    ring: KeyRing = request.app.state.keys
    return ring


RingDependency = Annotated[KeyRing, Depends(_ring)]


class NewKey(Frozen):
    """Whose it will be, and what for."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    scope: Scope = "inference"


@router.get("")
def list_keys(
    control: ControlDependency, limit: Limit = DEFAULT_LIMIT, after: After = None
) -> dict[str, Any]:
    """All valid keys, oldest first; their texts are known to nobody any more."""
    found = behind(control.facts.valid_keys(), after, lambda key: key.id)
    return page(found, limit, _described)


@router.post("", status_code=201)
def create_key(body: NewKey, control: ControlDependency, ring: RingDependency) -> JSONResponse:
    """Make a key. The answer is the only place where its text is ever shown."""
    key_id, text, digest = make_key()
    control.facts.add_key(key_id, digest, body.name, body.scope)
    ring.look_again()
    made = control.facts.key(key_id)
    headers = {"location": f"/api/v1/keys/{key_id}", "cache-control": "no-store"}
    return JSONResponse(_described(made) | {"key": text}, 201, headers)


@router.delete("/{key_id}", status_code=204)
def delete_key(
    key_id: str, control: ControlDependency, ring: RingDependency, own_id: KeyIdDependency
) -> Response:
    """Revoke a key: it is refused within five seconds."""
    if key_id == own_id:
        raise ConflictError("a key cannot revoke itself", hint="use another key")
    control.facts.remove_key(key_id)
    ring.look_again()
    return Response(status_code=204)


def _described(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "object": "key",
        "name": key.name,
        "scope": key.scope,
        "created_at": int(key.created_s),
    }
