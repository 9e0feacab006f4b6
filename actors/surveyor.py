"""A machine's pace and its link to the head, measured on it.

`jobs.way` starts one on each machine, for seconds. Invariant: it has the room of one worker, as
training will.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.train_context import begin_worker
from mulm.model.config import MicroLMConfig
from mulm.train.settled import SettledConfig
from mulm.train.sync.link import Link, measure_link
from mulm.train.sync.survey import Pace, measure_pace


class Surveyor:
    """Plain class behind the actor."""

    def pace(self, config: SettledConfig, shape: MicroLMConfig, device: str) -> Pace:
        """How fast this machine trains.

        Raises:
            DeviceError: it cannot.
        """
        begin_worker(1)
        return measure_pace(config, shape, device)

    def link(self, host: str, port: int, secret: str) -> Link:
        """How fast its link is.

        Raises:
            NotRunningError, AuthError: see `measure_link`.
        """
        return measure_link(host, port, secret)


def start_surveyor(node_id: str, resources: Mapping[str, float]) -> Any:
    """A handle of one on a machine; whoever started it ends it."""
    return (
        ray.remote(Surveyor)
        .options(
            num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote()
    )  # fmt: skip
