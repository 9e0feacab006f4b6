"""The ingress: HTTP in front of the engine host.

`Ingress` is made a deployment in `serve_app.app`; `make_app` is all of it without Serve. Light
floor: no torch. Invariant: the order of what a request passes through is the list in `make_app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from mulm import __version__
from mulm.config import parse_config
from mulm.errors import MulmError
from mulm.home import Home
from mulm.ledger import Facts
from mulm.refs import new_id
from mulm.store import Store
from serve_app import errors, health
from serve_app.auth import AuthMiddleware, KeyRing
from serve_app.engine_client import ServeEngineClient
from serve_app.middleware import BodyLimitMiddleware, ErrorMiddleware, RequestIdMiddleware
from serve_app.openai_api import chat, completions, models
from serve_app.service import Service, open_served
from serve_app.settings import MAX_BODY_BYTES, AppArgs


def make_app(service: Service, keys: KeyRing) -> FastAPI:
    """The whole HTTP application."""
    app = FastAPI(
        title="µLM",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",  # behind the key, like every route but two
        middleware=[
            Middleware(RequestIdMiddleware, new_id=lambda: new_id("req")),
            Middleware(ErrorMiddleware),
            Middleware(AuthMiddleware, keys=keys),
            Middleware(BodyLimitMiddleware, max_bytes=MAX_BODY_BYTES),
        ],
        exception_handlers={
            MulmError: errors.on_mulm_error,
            RequestValidationError: errors.on_validation_error,
            HTTPException: errors.on_http_error,
        },
    )
    app.state.service = service
    for room in (health, models, completions, chat):
        app.include_router(room.router)
    return app


class Ingress:
    """One replica: the application, and the model's light half, swapped by `reconfigure`."""

    def __init__(self, engine: Any) -> None:
        from actors.ledger_host import connect_facts

        self._facts: Facts = connect_facts()
        self._service = Service(ServeEngineClient(engine))

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve's hook for `user_config`."""
        args = parse_config(AppArgs, config)
        store = Store(Home.from_env().store)
        self._service.served = await asyncio.to_thread(open_served, args, store, self._facts)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the application of this replica."""
        return make_app(self._service, KeyRing(self._facts.key_digests))
