"""The machines that can train: each of the cluster that has room, and which of them are leaving.

Asked by `jobs.train` and `jobs.train_islands`. Invariant: pure functions of what Ray tells, the
head first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

ROOM_S = 10.0
"""How long the room of a run that has just ended may take to be free."""
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Box:
    """A machine that can train: its id in the cluster, its address, its workers' resources."""

    node_id: str
    address: str
    n_workers: int
    resources: Mapping[str, float]

    def fits(self, free: Mapping[str, float]) -> bool:
        """Whether one of its workers has room in what is free."""
        return all(free.get(name, 0.0) >= amount for name, amount in self.resources.items())


def find_boxes(nodes: Sequence[Mapping[str, Any]], device: str) -> list[Box]:
    """Where islands belong: an island for each machine, of all its GPUs.

    The head comes first: its island leads, and has the store beside it.
    """
    name = "GPU" if device == "cuda" else "CPU"
    alive = [node for node in nodes if node.get("Alive") and node["Resources"].get(name, 0) >= 1]
    alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeID"]))
    return [_box(node, name) for node in alive]


def with_room(
    boxes: Sequence[Box],
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Box]:
    """Those on which others leave room for a worker, now or within `ROOM_S`."""
    end_s = now_s() + ROOM_S
    while True:
        free = ray._private.state.available_resources_per_node()
        found = [box for box in boxes if box.fits(free.get(box.node_id, {}))]
        if len(found) == len(boxes) or now_s() > end_s:
            return found
        sleep(_POLL_S)


def _box(node: Mapping[str, Any], name: str) -> Box:
    n_workers = int(node["Resources"]["GPU"]) if name == "GPU" else 1
    resources = {"CPU": 1.0, "GPU": 1.0} if name == "GPU" else {"CPU": 1.0}
    return Box(str(node["NodeID"]), str(node.get("NodeManagerAddress")), n_workers, resources)


def draining_nodes() -> frozenset[str]:
    """The machines whose owners want them back."""
    return frozenset(ray._private.state.state.get_draining_nodes() or {})
