"""`GET /v1/models`: what is served; an adapter is a model whose `parent` it stands beside."""

from typing import Any

from fastapi import APIRouter

from serve_app.caller import CallerDependency
from serve_app.served import Served
from serve_app.service import ServiceDependency

router = APIRouter()


@router.get("/v1/models")
async def list_models(service: ServiceDependency, caller: CallerDependency) -> dict[str, Any]:
    """The served model, and after it its adapters, as far as the key may ask them."""
    return {"object": "list", "data": [_describe(each) for each in service.usable_by(caller.key)]}


@router.get("/v1/models/{name}")
async def get_model(
    name: str, service: ServiceDependency, caller: CallerDependency
) -> dict[str, Any]:
    """One of them."""
    return _describe(service.model(name, caller.key))


def _describe(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": int(served.created_s),
        "owned_by": "mulm",
        "root": served.ref,
        "parent": served.base,
    }
