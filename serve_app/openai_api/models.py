"""`GET /v1/models`: what is served; an adapter is a model whose `parent` it stands beside."""

from typing import Any

from fastapi import APIRouter

from serve_app.service import Served, ServiceDependency

router = APIRouter()


@router.get("/v1/models")
async def list_models(service: ServiceDependency) -> dict[str, Any]:
    """The served model, and after it its adapters."""
    return {"object": "list", "data": [_describe(each) for each in service.current().usable]}


@router.get("/v1/models/{name}")
async def get_model(name: str, service: ServiceDependency) -> dict[str, Any]:
    """One of them."""
    return _describe(service.model(name))


def _describe(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": int(served.created_s),
        "owned_by": "mulm",
        "root": served.ref,
        "parent": served.base,
    }
