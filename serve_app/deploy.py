"""Puts the application on a running cluster, by config deploy through Ray's Serve REST API.

Called by `mulm serve` and the demo. Invariants: deploying the same again changes nothing; another
model is taken over by the running replicas in place; it returns only when HTTP answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from actors.cluster_info import ClusterInfo
from mulm.errors import DeadlineError, JobFailedError, NotRunningError
from serve_app.settings import AppArgs

APPLICATION = "mulm"
IMPORT_PATH = "serve_app.app:build"
DEPLOYMENTS = ("engine", "ingress")
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
    timeout_s: float = 180.0,
    report: Report = lambda _text: None,
) -> None:
    """Serve a model and wait until it answers.

    Args:
        info: The running application.
        token: Ray's token.
        args: What to serve; `args.model` is a pinned reference.
        timeout_s: Seconds to wait.
        report: Told each new state in a few words.

    Raises:
        JobFailedError: the deployment failed, with its own last words.
        DeadlineError: it was not ready in time.
        NotRunningError: the cluster does not answer.
    """
    deadline_s = time.monotonic() + timeout_s
    config = deploy_config(info, args)
    with _dashboard(info, token) as http:
        _checked(_send(http, "PUT", _PATH, config))
        _wait(lambda: _is_running(http, config, report), deadline_s, "the deployment")
    report("waiting for HTTP")
    _wait(lambda: _answers(info), deadline_s, "the HTTP API")


def undeploy(info: ClusterInfo, token: str) -> None:
    """Stop serving; harmless when nothing is served. Raises NotRunningError."""
    with _dashboard(info, token) as http:
        _checked(_send(http, "DELETE", _PATH, None))


def deploy_config(info: ClusterInfo, args: AppArgs) -> dict[str, Any]:
    """The body of the config deploy: what may change in place is `user_config`."""
    assert args.ref
    user_config = args.model_dump(mode="json")
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": info.http_host, "port": info.http_port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": args.fixed(),
                "deployments": [{"name": name, "user_config": user_config} for name in DEPLOYMENTS],
            }
        ],
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
        deployments.get(d["name"], {}).get("status") == "HEALTHY"
        and deployments[d["name"]]["deployment_config"].get("user_config") == d["user_config"]
        for d in wanted
    )
    if found.get("status") == "RUNNING" and is_ours:
        return "running", ""
    states = [f"{name} {d.get('status', '').lower()}" for name, d in deployments.items()]
    return "deploying", ", ".join(states) or "starting"


def _is_running(http: httpx.Client, config: dict[str, Any], report: Report) -> bool:
    reply = _checked(_send(http, "GET", _PATH, None))
    state, words = state_of(reply.json(), config)
    if state == "failed":
        raise JobFailedError(f"the deployment failed: {last_line(words)}", log=words[-_LOG_CHARS:])
    report(words)
    return state == "running"


def _answers(info: ClusterInfo) -> bool:
    try:
        return httpx.get(f"{info.api_url}/readyz", timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


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


def _dashboard(info: ClusterInfo, token: str) -> httpx.Client:
    return httpx.Client(
        base_url=info.dashboard_url,
        headers={"Authorization": f"Bearer {token}"},
        timeout=_CALL_TIMEOUT_S,
        trust_env=False,
    )


def _send(http: httpx.Client, method: str, path: str, body: object) -> httpx.Response:
    try:
        return http.request(method, path, json=body)
    except httpx.TransportError as error:
        raise NotRunningError(
            f"the cluster does not answer: {error}", hint="run `mulm up` first"
        ) from None


def _checked(reply: httpx.Response) -> httpx.Response:
    if reply.is_error:
        raise JobFailedError(f"Ray answered {reply.status_code}: {last_line(reply.text)}")
    return reply
