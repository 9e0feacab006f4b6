"""Puts the application on a running cluster, and models behind it.

Called by `mulm up`, `mulm serve` and the demo. The ingress goes there through Ray's Serve REST API;
everything else is asked of the ingress, by our own HTTP API, as anybody would. Invariants: doing
the same again changes nothing; `deploy` returns only when an engine answers with what is wanted.
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
from serve_app.control_client import ControlClient
from serve_app.keys import read_first_key
from serve_app.settings import AppArgs, IngressArgs

_POLL_S = 0.2
_CALL_TIMEOUT_S = 60.0
_READY_TIMEOUT_S = 5.0
_LOG_CHARS = 4000

Report = Callable[[str], None]


def deploy_ingress(info: ClusterInfo, home: Home, timeout_s: float = 120.0) -> None:
    """Have HTTP answered, and with it all that is deployed; returns when it is.

    Raises:
        JobFailedError: it could not be started, with its own last words.
        DeadlineError: it was not ready in time.
        NotRunningError: the cluster does not answer.
        PortBusyError: another process has taken the HTTP port.
    """
    deadline_s = time.monotonic() + timeout_s
    dashboard = Dashboard(info.dashboard_url, read_token(home))
    config = ingress_config(IngressArgs(http_host=info.http_host, http_port=info.http_port))
    there = deployed(dashboard.request("GET", PATH))
    if INGRESS_APPLICATION not in there:
        choose_port(info.http_host, info.http_port, variable_of("http_port"))
    if not is_same(there.get(INGRESS_APPLICATION), config):
        _put(dashboard, there | {INGRESS_APPLICATION: config})
    _wait(lambda: _is_running(dashboard, config), deadline_s, "the HTTP service")
    _wait(lambda: _answers(info), deadline_s, "the HTTP service")


def deploy(
    info: ClusterInfo,
    args: AppArgs,
    *,
    home: Home,
    timeout_s: float = 180.0,
    report: Report = lambda _text: None,
) -> Mapping[str, str]:
    """Serve a model and wait until it answers.

    Args:
        info: The running application.
        args: What to serve.
        home: Where the first API key lies.
        timeout_s: Seconds to wait.
        report: Told each new state in a few words.

    Returns:
        What clients can ask now: names, the model's first, and the versions that they mean.

    Raises:
        JobFailedError: the deployment failed, with its own last words.
        DeadlineError: it was not ready in time.
        NotRunningError: nobody answers.
        NotFoundError: the model, or the first API key, is not there.
        MulmError: whatever else the API refuses.
    """
    deadline_s = time.monotonic() + timeout_s
    with ControlClient(info.api_url, read_first_key(home), trust_of(info)) as api:
        wanted = args.model_dump(mode="json", exclude={"served_name"})
        told = api.call("PUT", f"/deployments/{args.name}", wanted)
        while told["status"] != "running":
            if told["status"] == "failed":
                raise JobFailedError(f"the deployment failed: {told['message']}")
            if time.monotonic() > deadline_s:
                raise DeadlineError(
                    f"the deployment was not ready in time: {told['message'] or told['status']}",
                    hint="`mulm ps` shows what else is served; the Ray dashboard has the logs",
                )
            report(told["message"] or told["status"])
            time.sleep(_POLL_S)
            told = api.call("GET", f"/deployments/{args.name}")
        serves: dict[str, str] = told["serves"]
        return serves


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
