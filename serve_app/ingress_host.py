"""The ingress host: one replica that answers HTTP for all deployments.

Made a Serve deployment in `serve_app.app`. Invariant: it holds no weights and imports no torch, so
it starts fast and stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from actors.cluster import connect
from actors.dashboard import Dashboard
from actors.estimator import estimate_training
from actors.job_client import JobClient
from actors.nodes import cluster_nodes
from actors.port_plan import server_port
from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from mulm.config import parse_config
from mulm.facts import Facts
from mulm.home import Home
from mulm.runs.curves import Curves
from mulm.settings import Settings
from mulm.store import Store
from serve_app.alias_watch import resolve_ids
from serve_app.applications import ENGINE
from serve_app.auth import KeyRing
from serve_app.control_api.control import Control
from serve_app.control_api.event_feed import EventFeed
from serve_app.control_api.served_state import ServedState
from serve_app.deployer import Deployer
from serve_app.deployments import Deployments
from serve_app.engine_client import EngineClient
from serve_app.engine_links import EngineLinks
from serve_app.followed import Followed
from serve_app.hosts import require_guard
from serve_app.http_server import HttpServer
from serve_app.ingress import make_app
from serve_app.key_text import read_secret
from serve_app.limiter import Limiter
from serve_app.limits_renewal import LimitsRenewal
from serve_app.metrics import MeasuredClient, ServiceMetrics
from serve_app.serve_client import ServeEngineClient
from serve_app.served import Served, open_served
from serve_app.service import Service
from serve_app.settings import AppArgs, IngressArgs
from serve_app.tracing import TracedClient, Tracing
from serve_app.usage_writer import UsageWriter

_LOOK_TIMEOUT_S = 10.0


class IngressHost:
    """One replica: the application, and all that is served."""

    def __init__(self) -> None:
        import ray

        from actors.crew import join_crew
        from actors.ledger_host import connect_facts
        from actors.limiter import open_limiter
        from actors.store_host import cluster_store

        settings = self._settings = Settings.from_env()
        home = Home.from_env()
        self._facts: Facts = connect_facts()
        self._crew = join_crew()
        self._usage = UsageWriter(self._facts.add_usage)
        self._limiter = Limiter(self._usage, settings.rates, n_holders=settings.ingress_replicas)
        self._renewal = LimitsRenewal(self._limiter, open_limiter)
        self._store: Store = cluster_store(home)
        host = ray.util.get_node_ip_address()
        self._links = EngineLinks(host, partial(server_port, host, settings))
        self._metrics = ServiceMetrics(self._links.reports)
        self._tracing = Tracing()
        self._clients: dict[str, ServeEngineClient] = {}
        self._closing: set[asyncio.Task[None]] = set()
        info = connect(home)
        deployer = Deployer(Dashboard.of(info, home))
        self._deployments = Deployments(
            self._facts,
            deployer,
            self._follow,
            self._greet,
            Random(),
            self._crew.meet,
            forget=self._forget,
        )
        self._service = Service(self._deployments.serving, metrics_text=self._metrics.text)
        state = ServedState(self._deployments.serving, deployer, self._links.reports)
        self._control = open_control(
            home, self._facts, self._store, JobClient.of(info, home), state, settings.source_urls
        )
        self._keys = KeyRing(self._facts.key_secrets, read_secret(home.key_secret))
        self._server: HttpServer | None = None

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve's hook for `user_config`: follow what is deployed, and listen.

        In that order, so that nobody is told that nothing is served by one who does not know yet.
        """
        args = parse_config(IngressArgs, config)
        if self._settings.otlp_endpoint is not None and self._server is None:
            self._tracing.export_to(self._settings.otlp_endpoint)
        self._deployments.start()
        await self._deployments.wait_for_look(_LOOK_TIMEOUT_S)
        await self._listen(args)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook: the application of this replica."""
        return self._app()

    def check_health(self) -> None:
        """Serve's hook: raising has the replica replaced."""
        if self._server is not None:
            self._server.check_health()

    async def stop(self) -> None:
        """Take no more requests; the running ones come to their end."""
        self._deployments.stop()  # another ingress keeps them from now on; what is served goes on
        await asyncio.to_thread(self._crew.leave)
        if self._server is not None:
            await self._server.stop()
            await self._renewal.stop()
            await self._usage.stop()
        self._service.background.close()
        await self._links.close()
        await asyncio.to_thread(self._tracing.close)

    def _app(self) -> FastAPI:
        return make_app(
            self._service,
            self._keys,
            self._tracing,
            self._control,
            settings=self._settings,
            limiter=self._limiter,
        )

    async def _listen(self, args: IngressArgs) -> None:
        """Answer on the port that `args` name; it stays for the life of the replica."""
        if self._server is None and args.http_port is not None:
            has_keys = bool(await asyncio.to_thread(self._facts.valid_keys))
            require_guard(args.http_host, has_keys)
            tls = self._settings.tls
            server = HttpServer(self._app(), args.http_host, args.http_port, args.drain_s, tls)
            self._usage.start()
            self._renewal.start()
            await server.start()
            self._server = server

    def _follow(self, application: str, around: Callable[[EngineClient], EngineClient]) -> Followed:
        """Follow an application of engines, whether it is there yet or not."""
        client = self._clients.get(application)
        if client is None:
            # A handle of our own, not of Serve's cache, since it ends before the process does.
            handle = DeploymentHandle(ENGINE, application)
            client = ServeEngineClient(handle, self._links.line(application))
            self._clients[application] = client
        names: dict[str, str] = {}

        def read(args: AppArgs, engine: EngineClient) -> Served:
            served = open_served(args, self._store, self._facts, engine)
            names.update({served.model_id: served.name})
            names.update({each.id: each.name for each in served.adapters})
            return served

        measured = MeasuredClient(
            TracedClient(client, self._tracing), self._metrics, lambda id_: names.get(id_, "")
        )
        return Followed(around(measured), read, resolve_ids)

    async def _greet(self, applications: list[str]) -> None:
        await asyncio.gather(*map(self._greet_one, applications))

    async def _greet_one(self, application: str) -> None:
        if (client := self._clients.get(application)) is not None:
            await client.greet(await self._links.address(application))

    def _forget(self, application: str) -> None:
        """Nobody asks an application any more; what was asked comes to its end."""
        self._links.forget(application)
        closing = asyncio.create_task(self._clients.pop(application).close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def open_control(
    home: Home,
    facts: Facts,
    store: Store,
    jobs: JobClient,
    served: ServedState,
    source_urls: Sequence[str] = (),
) -> Control:
    """What the control API reaches: this installation, through the cluster."""

    def write(method: str, *args: Any, **kwargs: Any) -> None:
        getattr(facts, method)(*args, **kwargs)

    desk = RunDesk(home, facts, jobs, write)
    starter = RunStarter(home, facts, store, jobs, source_urls)
    feed = EventFeed(facts)
    return Control(
        facts, store, desk, starter, feed, served, estimate_training, cluster_nodes, Curves(facts)
    )
