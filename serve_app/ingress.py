"""The ingress: HTTP in front of an engine.

`make_app` is called by `serve_app.ingress_host` in a cluster, and by tests without one. Light
floor: no torch, no Ray. Invariant: what a request passes through is the list in `make_app`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from mulm import __version__
from mulm.accounts import UsageRow
from mulm.errors import MulmError
from mulm.refs import new_id
from mulm.settings import Settings
from serve_app import errors, health, metrics
from serve_app.audit import Act, AuditMiddleware
from serve_app.auth import AuthMiddleware, KeyRing
from serve_app.control_api import audit as audit_api
from serve_app.control_api import (
    cluster,
    datasets,
    deployments,
    evaluations,
    events,
    feedback,
    run_looks,
    runs,
    tokenizers,
    usage,
    versions,
)
from serve_app.control_api import keys as keys_api
from serve_app.control_api.control import Control
from serve_app.hosts import HostMiddleware
from serve_app.limiter import Limiter
from serve_app.limits_middleware import LimitsMiddleware
from serve_app.middleware import (
    AccessLogMiddleware,
    BodyMiddleware,
    ErrorMiddleware,
    RequestIdMiddleware,
)
from serve_app.openai_api import (
    batches,
    chat,
    completions,
    embeddings,
    files,
    fine_tuning,
    models,
    responses,
    tokens,
)
from serve_app.openapi import describe
from serve_app.routes import Routes, require_known_query
from serve_app.service import Service
from serve_app.settings import MAX_BODY_BYTES
from serve_app.tracing import TraceMiddleware, Tracing
from serve_app.ui import page
from serve_app.usage_writer import UsageWriter

_DEFAULTS = Settings()


def make_app(
    service: Service,
    keys: KeyRing,
    tracing: Tracing | None = None,
    control: Control | None = None,
    settings: Settings = _DEFAULTS,
    limiter: Limiter | None = None,
) -> FastAPI:
    """The whole HTTP application.

    Args:
        service: What is served.
        keys: Who may call.
        tracing: Told of each request.
        control: What the control API works with; without it that answers 503.
        settings: Names, origins and uploads that are let in.
        limiter: How much is let in; without one nobody is told what was used.
    """
    app = FastAPI(
        title="µLM",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a route has one name, and others are told so by the error object
        openapi_url="/openapi.json",  # behind the key, like every route but `OPEN_PATHS`
        dependencies=[Depends(require_known_query)],
        middleware=[
            Middleware(RequestIdMiddleware, new_id=lambda: new_id("req")),
            Middleware(AccessLogMiddleware),
            Middleware(TraceMiddleware, tracing=tracing or Tracing()),
            *_cors(settings.cors_origins),
            Middleware(ErrorMiddleware),
            Middleware(HostMiddleware, allowed=settings.allowed_hosts),
            Middleware(AuthMiddleware, keys=keys),
            Middleware(LimitsMiddleware, limiter=limiter or Limiter(UsageWriter(_unwritten))),
            *_audit(control),
            Middleware(BodyMiddleware, max_bytes=MAX_BODY_BYTES, uploads=files.UPLOADS),
        ],
        exception_handlers={
            MulmError: errors.on_mulm_error,
            RequestValidationError: errors.on_validation_error,
            HTTPException: errors.on_http_error,
        },
    )
    app.state.service, app.state.control, app.state.keys = service, control, keys
    app.state.max_upload_bytes = settings.max_upload_bytes
    openai_rooms = (models, completions, chat, responses, embeddings, tokens)
    openai_jobs = (files, fine_tuning, batches)
    work_rooms = (runs, run_looks, evaluations, deployments, events, cluster, feedback)
    data_rooms = (datasets, tokenizers, versions)
    account_rooms = (keys_api, usage, audit_api)
    control_rooms = (*work_rooms, *account_rooms, *data_rooms)
    rooms = (health, metrics, page, *openai_rooms, *openai_jobs, *control_rooms)
    for room in rooms:
        app.include_router(room.router)
    app.state.routes = Routes(room.router for room in rooms)
    describe(app)
    return app


def _audit(control: Control | None) -> list[Middleware]:
    """Where there is a ledger, changes are noted; without one nothing can be changed."""
    if control is None:
        return []
    facts = control.facts

    def note(act: Act) -> None:
        facts.add_audit(act.who, act.request_id, act.method, act.route, act.subject, act.outcome)

    return [Middleware(AuditMiddleware, note=note)]


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Web pages of other origins may call us only where they are named."""
    if not origins:
        return []
    kinds = [f"x-ratelimit-{word}" for word in ("limit", "remaining", "reset")]
    shown = ["x-request-id", "location", "etag", "retry-after"]
    shown += [f"{kind}-{what}" for kind in kinds for what in ("requests", "tokens")]
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=shown,
        )
    ]


def _unwritten(_writer: str, _seq: int, _rows: Sequence[UsageRow]) -> dict[str, int]:
    """Where there is no ledger to write usage to."""
    return {}
