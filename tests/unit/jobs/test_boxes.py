"""The machines on which islands belong."""

from __future__ import annotations

from typing import Any

from jobs.boxes import Box, find_boxes


def node(
    name: str, *, is_head: bool = False, alive: bool = True, **resources: float
) -> dict[str, Any]:
    head = {"node:__internal_head__": 1.0} if is_head else {}
    return {
        "NodeID": name, "Alive": alive, "NodeManagerAddress": f"10.0.0.{name}",
        "Resources": {**resources, **head},
    }  # fmt: skip


def test_the_head_comes_first_and_who_is_gone_not_at_all() -> None:
    nodes = [node("1", CPU=8), node("3", CPU=4, alive=False), node("2", CPU=2, is_head=True)]
    assert [box.node_id for box in find_boxes(nodes, "cpu")] == ["2", "1"]


def test_all_gpus_of_a_machine_are_one_island() -> None:
    nodes = [node("1", CPU=8, GPU=2), node("2", CPU=2, is_head=True)]
    (box,) = find_boxes(nodes, "cuda")
    assert box == Box("1", "10.0.0.1", 2, {"CPU": 1.0, "GPU": 1.0})


def test_cpus_of_a_machine_are_one_worker() -> None:
    (box,) = find_boxes([node("1", CPU=8, GPU=2)], "cpu")
    assert (box.n_workers, box.resources) == (1, {"CPU": 1.0})
