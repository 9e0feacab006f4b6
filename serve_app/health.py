"""`/healthz`, `/readyz` and `/health`: without a key; nothing but yes or no."""

from fastapi import APIRouter

from mulm.errors import NotRunningError
from serve_app.service import ServiceDependency

router = APIRouter()


@router.head("/healthz", include_in_schema=False)  # as some watchers ask
@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.head("/health", include_in_schema=False)
@router.get("/readyz")
@router.get("/health", include_in_schema=False)  # where load generators look, as vLLM has it
async def readyz(service: ServiceDependency) -> dict[str, str]:
    """Requests are answered; where models are served, by one of them at least."""
    if not await service.is_ready():
        raise NotRunningError("no engine answers", hint="try again in a moment")
    return {"status": "ready"}
