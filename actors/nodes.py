"""The machines of the cluster, as Ray knows them, in our words.

Called by the control API. Invariant: a machine that is gone is told as gone, not left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = "node:__internal_head__"
_LABELS_OF_RAY = "ray.io/"


def cluster_nodes() -> list[dict[str, Any]]:
    """All machines of the cluster that this process is connected to, the head first."""
    import ray

    return described(ray.nodes())


def described(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What Ray tells of machines, in our words."""
    found = [_described(node) for node in nodes]
    return sorted(found, key=lambda node: (not node["is_head"], not node["is_alive"], node["id"]))


def _described(node: Mapping[str, Any]) -> dict[str, Any]:
    resources = node.get("Resources", {})
    labels = node.get("Labels", {})
    return {
        "id": str(node["NodeID"]),
        "object": "node",
        "address": str(node.get("NodeManagerAddress", "")),
        "is_alive": bool(node.get("Alive", False)),
        "is_head": _HEAD in resources,
        "cpus": float(resources.get("CPU", 0.0)),
        "gpus": float(resources.get("GPU", 0.0)),
        "gpu": labels.get(f"{_LABELS_OF_RAY}accelerator-type"),
        "memory_bytes": int(resources.get("memory", 0)),
        "object_store_bytes": int(resources.get("object_store_memory", 0)),
        "labels": {k: v for k, v in labels.items() if not k.startswith(_LABELS_OF_RAY)},
    }
