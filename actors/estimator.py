"""What a training would be, asked of a worker of the cluster.

Called by the control API, whose own process has no torch. Invariant: nothing is written and nothing
runs on; what the config would be refused for at its start is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray

from actors.nodes import can_train
from actors.remote_answer import answer
from mulm.errors import DeadlineError

_TIMEOUT_S = 30.0
"""A worker that has to start takes some 10 s, most of it for torch."""


def estimate_training(values: Mapping[str, Any]) -> dict[str, Any]:
    """A preview of what `mulm train` would do with a config, without measuring the speed.

    Raises:
        MulmError: what the training would refuse.
        DeadlineError: no worker was free in time.
    """
    reference = ray.remote(_estimate).options(num_cpus=0).remote(dict(values))
    try:
        return estimated(reference)
    except DeadlineError:
        ray.cancel(reference, force=True)
        raise


def estimated(reference: Any, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """What a worker answers. Raises as `estimate_training`."""
    try:
        found: dict[str, Any] = answer(reference, "worker", "estimate", timeout_s)
    except DeadlineError:
        raise DeadlineError(
            f"no worker has made the estimate within {timeout_s:.0f} s: the machine is busy",
            hint="ask again in a moment; `mulm train CONFIG --dry-run` estimates without a cluster",
        ) from None
    return found


def _estimate(values: dict[str, Any]) -> dict[str, Any]:
    from actors.ledger_host import connect_facts
    from actors.store_host import cluster_store
    from mulm.config import load_config
    from mulm.home import Home
    from mulm.train.config import TrainConfig
    from mulm.train.estimate import estimate
    from mulm.train.preview import preview, work_of
    from mulm.train.sync.outlook import outlook

    config = load_config(TrainConfig, values)
    plan = preview(config, cluster_store(Home.from_env()), connect_facts())
    work = work_of(plan)
    machines = [str(node["NodeManagerAddress"]) for node in can_train(ray.nodes(), plan.device)]
    return asdict(plan) | {
        "object": "estimate",
        "estimate": asdict(estimate(work, is_measured=False)),
        "sync": asdict(outlook(work.config, work.shape, machines)),
    }
