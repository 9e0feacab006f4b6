"""`GET /v1/models`: what is served."""

from typing import Any

from fastapi import APIRouter

from serve_app.service import Served, ServiceDependency

router = APIRouter()


@router.get("/v1/models")
async def list_models(service: ServiceDependency) -> dict[str, Any]:
    """All served models."""
    return {"object": "list", "data": [_describe(service.current())]}


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
    }
