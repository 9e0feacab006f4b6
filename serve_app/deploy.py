"""Puts the HTTP service on a running cluster, through Ray's Serve REST API.

Called by `mulm up`. Everything else is asked of the service itself, by our own HTTP API, as anybody
would. Invariants: doing the same again changes nothing; it returns only when HTTP is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from actors.cluster_info import ClusterInfo, read_token
from actors.dashboard import Dashboard
from actors.ports import choose_port
from actors.tls_trust import trust_of
from mulm.errors import DeadlineError, JobFailedError, MulmError, NotRunningError
from mulm.home import Home
from mulm.settings import variable_of
from serve_app.applications import (
    INGRESS_APPLICATION,
    PATH,
    body,
    deployed,
    ingress_config,
    is_same,
    last_line,
    standing,
)
from serve_app.settings import IngressArgs

_POLL_S = 0.2
_CALL_TIMEOUT_S = 60.0
_READY_TIMEOUT_S = 5.0
_LOG_CHARS = 4000


def deploy_ingress(
    info: ClusterInfo, home: Home, n_replicas: int = 1, timeout_s: float = 120.0
) -> None:
    """Have HTTP answered, and with it all that is deployed; returns when it is.

    Args:
        info: The cluster, and where HTTP is answered.
        home: The installation.
        n_replicas: Processes that answer.
        timeout_s: How long that may take.

    Raises:
        JobFailedError: it could not be started, with its own last words.
        DeadlineError: it was not ready in time.
        NotRunningError: the cluster does not answer.
        PortBusyError: another process has taken the HTTP port.
    """
    deadline_s = time.monotonic() + timeout_s
    dashboard = Dashboard(info.dashboard_url, read_token(home))
    args = IngressArgs(http_host=info.http_host, http_port=info.http_port)
    config = ingress_config(args, n_replicas)
    there = deployed(dashboard.request("GET", PATH))
    if INGRESS_APPLICATION not in there:
        choose_port(info.http_host, info.http_port, variable_of("http_port"))
    if not is_same(there.get(INGRESS_APPLICATION), config):
        _put(dashboard, there | {INGRESS_APPLICATION: config})
    _wait(lambda: _is_running(dashboard, config), deadline_s, "the HTTP service")
    _wait(lambda: _answers(info), deadline_s, "the HTTP service")


def _put(dashboard: Dashboard, configs: Mapping[str, Any]) -> None:
    try:
        dashboard.request("PUT", PATH, body(configs), timeout_s=_CALL_TIMEOUT_S)
    except (NotRunningError, DeadlineError):
        raise
    except MulmError as error:
        raise JobFailedError(f"the HTTP service was refused: {error.message}") from None


def _is_running(dashboard: Dashboard, config: dict[str, Any]) -> bool:
    found = standing(dashboard.request("GET", PATH), config)
    if found.state == "failed":
        words = found.words
        raise JobFailedError(
            f"the HTTP service failed: {last_line(words)}", log=words[-_LOG_CHARS:]
        )
    return found.state == "running"


def _answers(info: ClusterInfo) -> bool:
    url = f"{info.api_url}/healthz"
    try:
        reply = httpx.get(url, timeout=_READY_TIMEOUT_S, trust_env=False, verify=trust_of(info))
    except httpx.TransportError:
        return False
    return reply.is_success


def _wait(is_done: Callable[[], bool], deadline_s: float, what: str) -> None:
    while not is_done():
        if time.monotonic() > deadline_s:
            raise DeadlineError(f"{what} was not ready in time", hint="look at the Ray dashboard")
        time.sleep(_POLL_S)
