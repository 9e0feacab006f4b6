"""The ingress host: one replica that answers HTTP.

Made a deployment in `serve_app.app`. Invariant: it holds no weights and imports no torch, so it
starts fast and stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from actors.cluster import connect
from actors.job_client import JobClient
from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from mulm.config import parse_config
from mulm.facts import Facts
from mulm.home import Home
from mulm.settings import Settings
from serve_app.alias_watch import AliasWatch, Meaning, meaning, resolve_ids
from serve_app.auth import KeyRing
from serve_app.control_api.control import Control
from serve_app.control_api.event_feed import EventFeed
from serve_app.hosts import require_guard
from serve_app.http_server import HttpServer
from serve_app.ingress import make_app
from serve_app.key_text import read_secret
from serve_app.metrics import MeasuredClient, ServiceMetrics
from serve_app.serve_client import ServeEngineClient
from serve_app.service import Service, open_served
from serve_app.settings import AppArgs
from serve_app.token_channel import TokenReceiver
from serve_app.tracing import TracedClient, Tracing


class IngressHost:
    """One replica: the application, and the model's light half, swapped by `reconfigure`."""

    def __init__(self, engine: Any) -> None:
        import ray

        from actors.ledger_host import connect_facts

        self._settings = Settings.from_env()
        self._facts: Facts = connect_facts()
        receiver = self._receiver = TokenReceiver(ray.util.get_node_ip_address())
        self._names: dict[str, str] = {}
        metrics = ServiceMetrics(receiver.reports, lambda model_id: self._names.get(model_id, ""))
        self._tracing = Tracing()
        client = MeasuredClient(
            TracedClient(ServeEngineClient(engine, receiver), self._tracing), metrics
        )
        self._service = Service(client, metrics_text=metrics.text)
        self._control = open_control(Home.from_env(), self._facts)
        self._alias = AliasWatch(resolve_ids)
        home = Home.from_env()
        self._keys = KeyRing(self._facts.key_secrets, read_secret(home.key_secret))
        self._change: asyncio.Task[None] | None = None
        self._server: HttpServer | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve's hook for `user_config`; the old model is served until an engine has the new."""
        args = parse_config(AppArgs, config)
        self._service.keeps_an_engine = args.min_replicas > 0
        if args.otlp_endpoint is not None and self._server is None:
            self._tracing.export_to(args.otlp_endpoint)
        served = await self._take_over(args)
        await self._listen(args)
        self._alias.follow(args, served, self._take_over)

    async def _take_over(self, args: AppArgs) -> Meaning:
        """Serve what `args` name by now, as soon as an engine does."""
        from actors.store_host import cluster_store

        store = cluster_store(Home.from_env())
        served = await asyncio.to_thread(open_served, args, store, self._facts)
        self._names |= {each.id: each.name for each in served.adapters}
        self._names[served.model_id] = served.name
        if self._change is not None:
            self._change.cancel()
        self._change = asyncio.create_task(self._service.take_over(served))
        return meaning([served.model_id, *(each.id for each in served.adapters)])

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the application of this replica."""
        return self._app()

    def check_health(self) -> None:
        """Serve's hook: raising has the replica replaced."""
        if self._server is not None:
            self._server.check_health()

    async def stop(self) -> None:
        """Take no more requests; the running ones come to their end."""
        self._alias.stop()
        if self._server is not None:
            await self._server.stop()
        if self._change is not None:
            self._change.cancel()
        self._service.background.close()
        await self._receiver.close()
        await asyncio.to_thread(self._tracing.close)

    def _app(self) -> FastAPI:
        return make_app(
            self._service, self._keys, self._tracing, self._control, settings=self._settings
        )

    async def _listen(self, args: AppArgs) -> None:
        """Answer on the port that `args` name; it stays for the life of the replica."""
        if self._server is None and args.http_port is not None:
            has_keys = bool(await asyncio.to_thread(self._facts.valid_keys))
            require_guard(args.http_host, has_keys)
            drain_s, tls = args.request_timeout_s, self._settings.tls
            server = HttpServer(self._app(), args.http_host, args.http_port, drain_s, tls)
            await server.start()
            self._server = server


def open_control(home: Home, facts: Facts) -> Control:
    """What the control API reaches: this installation, through the cluster."""
    from actors.store_host import cluster_store

    def write(method: str, *args: Any, **kwargs: Any) -> None:
        getattr(facts, method)(*args, **kwargs)

    store, jobs = cluster_store(home), JobClient.of(connect(home), home)
    return Control(
        facts,
        store,
        RunDesk(home, facts, jobs, write),
        RunStarter(home, facts, store, jobs),
        EventFeed(facts),
    )
