"""Serve's applications as config deploys name them: the ingress, and one for each deployment.

Called by `serve_app.deploy`, which puts the ingress there, and by `serve_app.deployer`, which keeps
the engines as the ledger wants them. Pure. Invariants: putting the same again changes nothing; what
may change in place travels as `user_config`; whoever puts one keeps all others as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mulm.errors import HINT, error_classes
from serve_app.settings import AppArgs, IngressArgs

INGRESS = "ingress"
ENGINE = "engine"
INGRESS_APPLICATION = "mulm"
_ENGINE_PREFIX = "engine-"
_CANARY_PREFIX = "canary-"

_OURS = "mulm.errors."
PATH = "/api/serve/applications/"
_STEADY = frozenset({"HEALTHY", "UPSCALING", "DOWNSCALING"})
"""Serve's states of a deployment that answers; load adds and ends replicas at any time."""

Details = Mapping[str, Any]
"""What Serve's REST API says of all applications."""

Config = dict[str, Any]
"""One application as Serve's REST API takes it."""

State = Literal["starting", "running", "failed"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How an application stands beside its config."""

    state: State
    words: str = ""


def engine_application(name: str, is_canary: bool = False) -> str:
    """The name of the application that runs a deployment's engines."""
    return f"{_CANARY_PREFIX if is_canary else _ENGINE_PREFIX}{name}"


def is_engines(application: str) -> bool:
    """Whether an application is one that `engine_application` names."""
    return application.startswith((_ENGINE_PREFIX, _CANARY_PREFIX))


def ingress_config(args: IngressArgs, n_replicas: int = 1) -> Config:
    """The application that answers HTTP, from so many processes."""
    deployment = _deployment(INGRESS, args.model_dump(mode="json"), args.drain_s)
    return {
        "name": INGRESS_APPLICATION,
        "route_prefix": "/",
        "import_path": "serve_app.app:build_ingress",
        "args": args.model_dump(mode="json"),
        "deployments": [deployment | {"num_replicas": n_replicas}],
    }


def engine_config(application: str, args: AppArgs) -> Config:
    """The application of a deployment's engines; what may change in place is `user_config`."""
    assert args.ref
    user_config = args.model_dump(mode="json")
    return {
        "name": application,
        "route_prefix": None,  # asked by the ingress alone
        "import_path": "serve_app.app:build_engine",
        "args": args.fixed(),
        "deployments": [_deployment(ENGINE, user_config, args.request_timeout_s)],
    }


def _deployment(name: str, user_config: dict[str, Any], drain_s: float) -> dict[str, Any]:
    return {"name": name, "user_config": user_config, "graceful_shutdown_timeout_s": drain_s}


def body(configs: Mapping[str, Config]) -> dict[str, Any]:
    """What is put: all applications that shall be there; others end."""
    proxy = "Disabled"  # the ingress listens itself
    return {"proxy_location": proxy, "applications": [configs[name] for name in sorted(configs)]}


def deployed(details: Details) -> dict[str, Config]:
    """The configs that were put, by name."""
    applications = details.get("applications", {})
    return {
        name: found["deployed_app_config"]
        for name, found in applications.items()
        if found.get("deployed_app_config") and found.get("status") != "DELETING"
    }


def is_same(one: Config | None, other: Config) -> bool:
    """Whether a config that was put is as one that would be."""
    return one is not None and all(one.get(key) == value for key, value in other.items())


def standing(details: Details, config: Config) -> Standing:
    """How the application of a config stands, and Serve's words about it."""
    found = details.get("applications", {}).get(config["name"], {})
    deployments = found.get("deployments", {})
    words = [str(found.get("message", ""))]
    words += [str(deployment.get("message", "")) for deployment in deployments.values()]
    if found.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
        return Standing("failed", "\n".join(filter(None, words)))
    is_ours = all(
        deployments.get(d["name"], {}).get("status") in _STEADY
        and deployments[d["name"]]["deployment_config"].get("user_config") == d["user_config"]
        for d in config["deployments"]
    )
    if found.get("status") == "RUNNING" and is_ours:
        return Standing("running")
    states = [f"{name} {d.get('status', '').lower()}" for name, d in deployments.items()]
    return Standing("starting", ", ".join(states) or "starting")


def last_line(words: str) -> str:
    """What a traceback says of the error, with code and hint where it is of ours; else its end."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    codes = {cls.__name__: cls.code for cls in error_classes()}
    for before, line in reversed(list(enumerate(lines))):
        name, colon, message = line.removeprefix(_OURS).partition(":")
        if line.startswith(_OURS) and colon and name in codes:
            hints = [rest for rest in lines[before + 1 : before + 2] if rest.startswith(HINT)]
            hint = f" ({hints[0].removeprefix(HINT)})" if hints else ""
            return f"{codes[name]}: {message.strip()}{hint}"
    return lines[-1] if lines else "no reason given"
