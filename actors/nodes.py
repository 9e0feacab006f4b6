"""The machines of the cluster, as Ray knows them, in our words: what each has and gives.

Called by the control API, and by whoever places training. Invariants: a machine that is gone is
told as gone, not left out; what a machine did not tell is None.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.head_link import DOWN_LABEL, RTT_LABEL, UP_LABEL

_HEAD = "node:__internal_head__"
_LABELS_OF_RAY = "ray.io/"
_ASK_S = 5.0
_ANSWER_S = 2.0
_WORK = {
    re.compile("IslandWorker"): "island",
    re.compile("RayTrainWorker"): "training",
    re.compile("ServeReplica:(.+):EngineReplica"): "engine",
}
"""Classes of actors that work for their users, and what they are called."""


def cluster_nodes() -> list[dict[str, Any]]:
    """All machines of the cluster that this process is connected to, the head first."""
    import ray

    client = ray._private.worker.global_worker.gcs_client
    started_ms = {
        node_id.hex(): int(node.start_time_ms)
        for node_id, node in client.get_all_node_info(timeout=_ASK_S).items()
    }
    living = ray._private.state.actors(actor_state_name="ALIVE").values()
    return described(ray.nodes(), started_ms, living)


def draining_nodes() -> frozenset[str]:
    """The machines whose owners want them back."""
    import ray

    return frozenset(ray._private.state.state.get_draining_nodes() or {})


def answers(node: Mapping[str, Any]) -> bool:
    """Whether Ray on a machine takes a connection: one that has just gone is listed for seconds."""
    place = str(node.get("NodeManagerAddress")), int(node["NodeManagerPort"])
    try:
        socket.create_connection(place, timeout=_ANSWER_S).close()
    except OSError:
        return False
    return True


def can_train(nodes: Sequence[Mapping[str, Any]], device: str) -> list[Mapping[str, Any]]:
    """Those that live and have something to train on, as Ray tells them, the head first."""
    name = "GPU" if device == "cuda" else "CPU"
    alive = [node for node in nodes if node.get("Alive") and node["Resources"].get(name, 0) >= 1]
    return sorted(alive, key=lambda node: (_HEAD not in node["Resources"], node["NodeID"]))


def described(
    nodes: Sequence[Mapping[str, Any]],
    started_ms: Mapping[str, int] | None = None,
    actors: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """What Ray tells of machines and of the actors on them, in our words.

    Args:
        nodes: The machines.
        started_ms: When each began, by its id.
        actors: Those that live.
    """
    work: dict[str, list[dict[str, str]]] = {}
    for actor in actors:
        if told := _work(actor):
            work.setdefault(str(actor["Address"]["NodeID"]), []).append(told)
    found = [_described(node, started_ms or {}, work) for node in nodes]
    return sorted(found, key=lambda node: (not node["is_head"], not node["is_alive"], node["id"]))


def _described(
    node: Mapping[str, Any],
    started_ms: Mapping[str, int],
    work: Mapping[str, list[dict[str, str]]],
) -> dict[str, Any]:
    resources = node.get("Resources", {})
    labels = node.get("Labels", {})
    node_id = str(node["NodeID"])
    since_ms = started_ms.get(node_id)
    return {
        "id": node_id,
        "object": "node",
        "name": labels.get("mulm.name"),
        "address": str(node.get("NodeManagerAddress", "")),
        "is_alive": bool(node.get("Alive", False)),
        "is_head": _HEAD in resources,
        "since_s": None if since_ms is None else since_ms / 1000,
        "cpus": float(resources.get("CPU", 0.0)),
        "gpus": float(resources.get("GPU", 0.0)),
        "gpu": labels.get("mulm.gpu") or labels.get(f"{_LABELS_OF_RAY}accelerator-type"),
        "vram_gib": _number(labels.get("mulm.vram_gib")),
        "memory_bytes": int(resources.get("memory", 0)),
        "object_store_bytes": int(resources.get("object_store_memory", 0)),
        "trust": labels.get("mulm.trust"),
        "rtt_ms": _number(labels.get(RTT_LABEL)),
        "up_mbit": _number(labels.get(UP_LABEL)),
        "down_mbit": _number(labels.get(DOWN_LABEL)),
        "work": sorted(work.get(node_id, []), key=lambda told: (told["kind"], told["name"])),
        "labels": {k: v for k, v in labels.items() if not k.startswith(_LABELS_OF_RAY)},
    }


def _work(actor: Mapping[str, Any]) -> dict[str, str] | None:
    for form, kind in _WORK.items():
        if match := form.fullmatch(str(actor["ActorClassName"])):
            return {"kind": kind, "name": "".join(match.groups())}
    return None


def _number(text: str | None) -> float | None:
    """A label is another machine's word."""
    return float(text) if text and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) else None
