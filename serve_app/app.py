"""The Serve applications: which classes are deployments, and with what resources.

One application answers HTTP, and each deployment of a model has one of its own, so that one comes
and goes without the others. `build_ingress` and `build_engine` are the import paths of config
deploys (`serve_app.applications`). No `from __future__ import annotations` here: Serve reads the
builders' types to parse their arguments. The model travels as `user_config`, so another one is
taken over in place.
"""

import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from mulm.errors import DeviceError
from mulm.log import configure_logging
from serve_app.applications import ENGINE, INGRESS
from serve_app.engine_host import EngineHost
from serve_app.engine_of_model import PLACES_PER_SLOT
from serve_app.ingress_host import IngressHost
from serve_app.replica_port import bind_to_node
from serve_app.settings import AppArgs, IngressArgs

_log = logging.getLogger(__name__)


# Serving takes CPUs as it needs them. Reserved, they would keep a training run on the same PC,
# whose workers want a CPU each, waiting for as long as a model is served.
_RESERVED_CPUS = 0
_ON_THE_HEAD = {"node:__internal_head__": 0.001}
"""The ingress listens at an address that clients know."""

_INGRESS_MAX_ONGOING = 1000
_INGRESS_MAX_QUEUED = 200
_OWN_QUESTIONS = 2
"""Places in the engine's line for the ingress itself: is it ready, and which model has it."""

_HEALTH_PERIOD_S = 1.0
"""Three failures in a row replace a replica: a broken engine is gone within seconds."""

_SCALING = "serve_app.scaling:by_pressure"
_LOOK_BACK_S = 10.5
"""Over how long Serve averages; it wants more than 10."""

_METRICS_ENV = {"RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
"""For the ingress, whose handle counts the engine's requests for the autoscaler."""


class EngineReplica(EngineHost):
    """The engine host in a replica's process."""

    def __init__(self) -> None:
        bind_to_node()
        configure_logging()
        super().__init__()

    async def __del__(self) -> None:  # type: ignore[override]
        """Serve's hook before a replica ends."""
        await self.stop()


class IngressReplica(IngressHost):
    """The ingress host in a replica's process."""

    def __init__(self) -> None:
        bind_to_node()
        configure_logging()
        super().__init__()

    async def __del__(self) -> None:
        """Serve's hook before a replica ends."""
        await self.stop()


def build_engine(args: AppArgs) -> Application:
    """The autoscaled engine hosts of one deployment."""
    resources = ray.cluster_resources() if ray.is_initialized() else {}
    max_replicas, reason = placeable_replicas(args, resources)
    _log.info("engine replicas min=%d max=%d reason=%s", args.min_replicas, max_replicas, reason)
    application: Application = serve.deployment(
        EngineReplica,
        name=ENGINE,
        user_config=args.model_dump(mode="json") if args.model else None,
        ray_actor_options=engine_resources(args, has_gpu=resources.get("GPU", 0) >= 1),
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": args.n_slots,
            "upscale_delay_s": args.upscale_delay_s,
            "downscale_delay_s": args.downscale_delay_s,
            "look_back_period_s": _LOOK_BACK_S,
            "policy": {"policy_function": _SCALING},
        },
        max_ongoing_requests=PLACES_PER_SLOT * args.n_slots,
        max_queued_requests=args.max_queued + _OWN_QUESTIONS,
        health_check_period_s=_HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=args.request_timeout_s,
    ).bind()
    return application


def build_ingress(args: IngressArgs) -> Application:
    """What answers HTTP for all deployments."""
    application: Application = serve.deployment(
        serve.ingress()(IngressReplica),
        name=INGRESS,
        user_config=args.model_dump(mode="json"),
        health_check_period_s=_HEALTH_PERIOD_S,
        ray_actor_options={
            "num_cpus": _RESERVED_CPUS,
            "resources": _ON_THE_HEAD,
            "runtime_env": {"env_vars": _METRICS_ENV},
        },
        max_ongoing_requests=_INGRESS_MAX_ONGOING,
        max_queued_requests=_INGRESS_MAX_QUEUED,
        graceful_shutdown_timeout_s=args.drain_s,
    ).bind()
    return application


def placeable_replicas(args: AppArgs, resources: Mapping[str, float]) -> tuple[int, str]:
    """How many engines the cluster has room for, up to `max_replicas`, and why.

    Raises:
        DeviceError: it has no room for `min_replicas`.
    """
    n_gpus, n_cpus = (int(resources.get(name, 0)) for name in ("GPU", "CPU"))
    if args.device == "cuda" or (args.device == "auto" and n_gpus):
        room, what = int(n_gpus / args.gpus_per_replica), f"{n_gpus} GPUs"
        if room < max(args.min_replicas, 1):
            raise DeviceError(
                f"{args.min_replicas} engines need {args.gpus_per_replica:g} GPU each"
                f" and there are {n_gpus}",
                hint="lower min_replicas, or set device to cpu",
            )
    elif args.n_threads is None:
        n_machines = sum(name.startswith("node:") and "__" not in name for name in resources)
        room = max(n_machines, args.min_replicas, 1)
        what = f"{n_machines} machines, all of whose cores an engine takes"
    else:
        room = max(n_cpus // args.n_threads, args.min_replicas, 1)
        what = f"{n_cpus} CPUs for {args.n_threads} threads each"
    return (room, what) if room < args.max_replicas else (args.max_replicas, "as asked for")


def engine_resources(args: AppArgs, has_gpu: bool) -> dict[str, Any]:
    """What Ray reserves for each engine replica, and the environment of its process."""
    is_on_gpu = args.device == "cuda" or (args.device == "auto" and has_gpu)
    return {"num_cpus": _RESERVED_CPUS, "num_gpus": args.gpus_per_replica if is_on_gpu else 0}
