"""Puts the application on a running cluster, by config deploy through Ray's Serve REST API.

Called by `mulm serve` and the demo. Invariants: deploying the same again changes nothing; another
model is taken over by the running replicas in place; it returns only when our own API, asked with
our key, says that it serves the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from actors.cluster_info import ClusterInfo
from actors.dashboard import Dashboard
from actors.ports import choose_port
from actors.tls_trust import trust_of
from mulm.errors import DeadlineError, JobFailedError, MulmError, NotRunningError
from mulm.home import Home
from mulm.settings import variable_of
from serve_app.keys import read_first_key
from serve_app.settings import AppArgs

APPLICATION = "mulm"
IMPORT_PATH = "serve_app.app:build"
DEPLOYMENTS = ("engine", "ingress")
_STEADY = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})
"""Serve's states of a deployment that answers; load adds and ends replicas at any time."""

_PATH = "/api/serve/applications/"
_POLL_S = 0.2
_CALL_TIMEOUT_S = 60.0
_LOG_CHARS = 4000

Report = Callable[[str], None]


def deploy(
    info: ClusterInfo,
    token: str,
    args: AppArgs,
    *,
    versions: Mapping[str, str] | None = None,
    home: Home | None = None,
    timeout_s: float = 180.0,
    report: Report = lambda _text: None,
) -> None:
    """Serve a model and wait until it answers.

    Args:
        info: The running application.
        token: Ray's token.
        args: What to serve.
        versions: What `args.model` and its adapters mean now, by the names that clients use; what
            `args` say, where they are pinned.
        home: Where the first API key lies; by default the home of the environment.
        timeout_s: Seconds to wait.
        report: Told each new state in a few words.

    Raises:
        JobFailedError: the deployment failed, with its own last words.
        DeadlineError: it was not ready in time.
        NotRunningError: the cluster does not answer.
        PortBusyError: another process has taken the HTTP port since `mulm up`.
        NotFoundError: the first API key is gone.
    """
    deadline_s = time.monotonic() + timeout_s
    key = read_first_key(home or Home.from_env())
    args = args.model_copy(update={"http_host": info.http_host, "http_port": info.http_port})
    config = deploy_config(args)
    dashboard = Dashboard(info.dashboard_url, token)
    if not is_deployed(dashboard.request("GET", _PATH)):
        choose_port(info.http_host, info.http_port, variable_of("http_port"))
    _put(dashboard, config)
    _wait(lambda: _is_running(dashboard, config, report), deadline_s, "the deployment")
    report("waiting for HTTP")
    wanted = versions or {args.name: str(args.model)} | args.adapters
    _wait(lambda: _serves(info, key, wanted), deadline_s, "the HTTP API")


def is_deployed(details: dict[str, Any]) -> bool:
    """Whether the application is there, so that its port is busy because of us."""
    return APPLICATION in details.get("applications", {})


def deploy_config(args: AppArgs) -> dict[str, Any]:
    """The body of the config deploy: what may change in place is `user_config`."""
    assert args.ref
    return {
        "proxy_location": "Disabled",  # the ingress listens itself
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": args.fixed(),
                "deployments": [_deployment(name, args) for name in DEPLOYMENTS],
            }
        ],
    }


def _deployment(name: str, args: AppArgs) -> dict[str, Any]:
    return {
        "name": name,
        "user_config": args.model_dump(mode="json"),
        "graceful_shutdown_timeout_s": args.request_timeout_s,
    }


def state_of(details: dict[str, Any], config: dict[str, Any]) -> tuple[str, str]:
    """What Serve's details say about our config: ("deploying" | "running" | "failed", words)."""
    wanted = config["applications"][0]["deployments"]
    found = details.get("applications", {}).get(APPLICATION, {})
    deployments = found.get("deployments", {})
    words = [str(found.get("message", ""))]
    words += [str(deployment.get("message", "")) for deployment in deployments.values()]
    if found.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
        return "failed", "\n".join(filter(None, words))
    is_ours = all(
        deployments.get(d["name"], {}).get("status") in _STEADY
        and deployments[d["name"]]["deployment_config"].get("user_config") == d["user_config"]
        for d in wanted
    )
    if found.get("status") == "RUNNING" and is_ours:
        return "running", ""
    states = [f"{name} {d.get('status', '').lower()}" for name, d in deployments.items()]
    return "deploying", ", ".join(states) or "starting"


def _put(dashboard: Dashboard, config: dict[str, Any]) -> None:
    try:
        dashboard.request("PUT", _PATH, config, timeout_s=_CALL_TIMEOUT_S)
    except (NotRunningError, DeadlineError):
        raise
    except MulmError as error:
        raise JobFailedError(f"the deployment was refused: {error.message}") from None


def _is_running(dashboard: Dashboard, config: dict[str, Any], report: Report) -> bool:
    state, words = state_of(dashboard.request("GET", _PATH), config)
    if state == "failed":
        raise JobFailedError(f"the deployment failed: {last_line(words)}", log=words[-_LOG_CHARS:])
    report(words)
    return state == "running"


def _serves(info: ClusterInfo, key: str, versions: Mapping[str, str]) -> bool:
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{info.api_url}/v1/models"
    try:
        reply = httpx.get(url, headers=headers, timeout=5.0, trust_env=False, verify=trust_of(info))
    except httpx.TransportError:
        return False
    return reply.is_success and names_models(reply, versions)


def names_models(reply: httpx.Response, versions: Mapping[str, str]) -> bool:
    """Whether an answer of `/v1/models` is ours, and of exactly those."""
    try:
        served = {model["id"]: model["root"] for model in reply.json()["data"]}
    except (ValueError, KeyError, TypeError):
        return False
    return served == versions


def last_line(words: str) -> str:
    """The line of a traceback that names the error, else the last one."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("mulm.errors.")]
    return (named or lines or ["no reason given"])[-1].removeprefix("mulm.errors.")


def _wait(is_done: Callable[[], bool], deadline_s: float, what: str) -> None:
    while not is_done():
        if time.monotonic() > deadline_s:
            raise DeadlineError(f"{what} was not ready in time", hint="look at the Ray dashboard")
        time.sleep(_POLL_S)
