"""Where an actor lives that must not live elsewhere: on the machine of the process that starts it.

Used for all that belongs to the head: its files, its addresses, its counts. Invariant: Ray starts
such an actor again on that machine or not at all; without this it may choose a machine that joined.
"""

from __future__ import annotations

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def on_this_machine() -> NodeAffinitySchedulingStrategy:
    """For the options of an actor."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
