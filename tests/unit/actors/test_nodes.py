"""What Ray tells of machines, in our words."""

from __future__ import annotations

from typing import Any

from actors.nodes import can_train, described

HEAD = {
    "NodeID": "aa", "NodeManagerAddress": "10.0.0.1", "Alive": True,
    "Resources": {"node:__internal_head__": 1.0, "CPU": 8.0, "memory": 1e9}, "Labels": {},
}  # fmt: skip
LAPTOP = {
    "NodeID": "bb", "NodeManagerAddress": "10.0.0.2", "Alive": True,
    "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 2e9},
    "Labels": {
        "ray.io/node-id": "bb", "mulm.name": "laptop", "mulm.trust": "guest",
        "mulm.gpu": "RTX-3060", "mulm.vram_gib": "12", "mulm.rtt_ms": "0.4",
        "mulm.up_mbit": "94", "mulm.down_mbit": "nan",
    },
}  # fmt: skip


def actor(class_name: str, node_id: str) -> dict[str, Any]:
    return {"ActorClassName": class_name, "Address": {"NodeID": node_id}}


def test_a_machine_is_told_with_what_it_gives() -> None:
    actors = [
        actor("ServeReplica:demo:EngineReplica", "bb"), actor("IslandWorker", "bb"),
        actor("ServeReplica:mulm:Ingress", "aa"), actor("LedgerHost", "aa"),
    ]  # fmt: skip
    head, laptop = described([LAPTOP, HEAD], {"bb": 1_700_000_000_500}, actors)
    assert head["is_head"]
    assert (head["name"], head["since_s"], head["work"], head["up_mbit"]) == (None, None, [], None)
    assert (laptop["name"], laptop["trust"], laptop["since_s"]) == (
        "laptop", "guest", 1_700_000_000.5,
    )  # fmt: skip
    assert (laptop["gpu"], laptop["vram_gib"]) == ("RTX-3060", 12.0)
    assert (laptop["rtt_ms"], laptop["up_mbit"], laptop["down_mbit"]) == (0.4, 94.0, None)
    assert laptop["work"] == [{"kind": "engine", "name": "demo"}, {"kind": "island", "name": ""}]
    assert "ray.io/node-id" not in laptop["labels"]


def test_who_lives_and_has_something_to_train_on_can_train() -> None:
    gone = {**LAPTOP, "NodeID": "a0", "Alive": False}
    idle = {"NodeID": "cc", "NodeManagerAddress": "10.0.0.3", "Alive": True, "Resources": {}}
    nodes = [LAPTOP, gone, idle, HEAD]
    assert [node["NodeID"] for node in can_train(nodes, "cpu")] == ["aa", "bb"]
    assert [node["NodeID"] for node in can_train(nodes, "cuda")] == ["bb"]
