"""The Serve application: which classes are deployments, and with what resources.

`build` is the import path of config deploys and of `serve run`: "serve_app.app:build". No
`from __future__ import annotations` here: Serve reads the builder's type to parse its arguments.
The model travels as `user_config`, so another one is taken over in place.
"""

from typing import Any

import ray
from ray import serve
from ray.serve import Application

from serve_app.engine_host import EngineHost
from serve_app.ingress_host import IngressHost
from serve_app.settings import AppArgs

ENGINE = "engine"
INGRESS = "ingress"

# Serving takes CPUs as it needs them. Reserved, they would keep a training run on the same PC,
# whose workers want a CPU each, waiting for as long as a model is served.
_RESERVED_CPUS = 0
_INGRESS_MAX_ONGOING = 1000
_DRAIN_S = 10.0


def build(args: AppArgs) -> Application:
    """The ingress in front of autoscaled engine hosts."""
    config = args.model_dump(mode="json") if args.model else None
    engine = serve.deployment(
        EngineHost,
        name=ENGINE,
        user_config=config,
        ray_actor_options=engine_resources(args, has_gpu=_has_gpu()),
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": args.n_slots,
        },
        # Twice the slots: a finished sequence finds its successor in the engine's own line.
        max_ongoing_requests=2 * args.n_slots,
        max_queued_requests=args.max_queued,
        graceful_shutdown_timeout_s=_DRAIN_S,
    ).bind()
    ingress = serve.deployment(
        serve.ingress()(IngressHost),
        name=INGRESS,
        user_config=config,
        ray_actor_options={"num_cpus": _RESERVED_CPUS},
        max_ongoing_requests=_INGRESS_MAX_ONGOING,
        graceful_shutdown_timeout_s=_DRAIN_S,
    ).bind(engine)
    application: Application = ingress
    return application


def engine_resources(args: AppArgs, has_gpu: bool) -> dict[str, Any]:
    """What Ray reserves for each engine replica, and the environment of its process."""
    is_on_gpu = args.device == "cuda" or (args.device == "auto" and has_gpu)
    return {
        "num_cpus": _RESERVED_CPUS,
        "num_gpus": 1 if is_on_gpu else 0,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(args.n_threads)}},
    }


def _has_gpu() -> bool:
    return bool(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)
