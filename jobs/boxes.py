"""The machines that can train: each of the cluster that has room, and which of them are leaving.

Asked by `jobs.train`, `jobs.train_islands` and `jobs.room`. Invariant: pure functions of what Ray
tells, the head first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from actors.nodes import answers, can_train, draining_nodes

__all__ = [
    "Box", "draining_nodes", "find_boxes", "free_resources", "n_fitting", "resources_of_worker",
    "roomy", "staying_nodes",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Box:
    """A machine that can train: its id in the cluster, its address, its workers' resources."""

    node_id: str
    address: str
    n_workers: int
    resources: Mapping[str, float]

    def n_fitting(self, free: Mapping[str, float]) -> int:
        """How many of its workers have room in what is free."""
        fitting = [int(free.get(name, 0.0) // each) for name, each in self.resources.items()]
        return min(self.n_workers, *fitting)


def find_boxes(nodes: Sequence[Mapping[str, Any]], device: str) -> list[Box]:
    """Where islands belong: an island for each machine, of all its GPUs.

    The head comes first: its island leads, and has the store beside it.
    """
    name = "GPU" if device == "cuda" else "CPU"
    return [_box(node, name) for node in can_train(nodes, device)]


def roomy(boxes: Sequence[Box], free: Mapping[str, Mapping[str, float]]) -> list[Box]:
    """Those on which others leave room, each with as many workers as have it.

    Args:
        boxes: The machines.
        free: What is free on each, by its id.
    """
    counted = [(box, box.n_fitting(free.get(box.node_id, {}))) for box in boxes]
    return [replace(box, n_workers=n) for box, n in counted if n > 0]


def n_fitting(free: Mapping[str, Mapping[str, float]], device: str) -> int:
    """How many workers have room, on whichever machines, in what is free on each."""
    needed = resources_of_worker(device)
    return sum(
        min(int(there.get(name, 0.0) // each) for name, each in needed.items())
        for there in free.values()
    )


def resources_of_worker(device: str) -> dict[str, float]:
    """What Ray gives to each worker."""
    return {"CPU": 1.0, "GPU": 1.0} if device == "cuda" else {"CPU": 1.0}


def _box(node: Mapping[str, Any], name: str) -> Box:
    n_workers = int(node["Resources"]["GPU"]) if name == "GPU" else 1
    resources = resources_of_worker("cuda" if name == "GPU" else "cpu")
    return Box(str(node["NodeID"]), str(node.get("NodeManagerAddress")), n_workers, resources)


def free_resources() -> Mapping[str, Mapping[str, float]]:
    """What nobody has right now, by the id of the machine."""
    found: Mapping[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()
    return found


def staying_nodes() -> list[Mapping[str, Any]]:
    """The machines that are there, answer, and are not wanted back by their owners."""
    draining = draining_nodes()
    living = [node for node in ray.nodes() if node.get("Alive")]
    return [node for node in living if node["NodeID"] not in draining and answers(node)]
