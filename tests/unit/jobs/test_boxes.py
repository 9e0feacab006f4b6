"""The machines on which islands belong."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from jobs.boxes import ROOM_S, Box, find_boxes, with_room


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


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, dict[str, float]]]:
    """What is free at each look; the last stays."""
    told: list[dict[str, dict[str, float]]] = []
    state = ray._private.state
    monkeypatch.setattr(
        state, "available_resources_per_node", lambda: told.pop(0) if len(told) > 1 else told[0]
    )
    return told


BOTH = [Box("1", "10.0.0.1", 1, {"CPU": 1.0}), Box("2", "10.0.0.2", 1, {"CPU": 1.0})]


def test_room_that_becomes_free_is_waited_for(free: list[Any]) -> None:
    free += [{"1": {"CPU": 2.0}, "2": {}}, {"1": {"CPU": 2.0}, "2": {"CPU": 1.0}}]
    waits: list[float] = []
    assert with_room(BOTH, now_s=lambda: sum(waits), sleep=waits.append) == BOTH
    assert len(waits) == 1


def test_who_is_taken_is_left_out_after_a_while(free: list[Any]) -> None:
    free += [{"1": {"CPU": 0.5, "memory": 9.0}, "2": {"CPU": 1.0}}]
    waits: list[float] = []
    assert with_room(BOTH, now_s=lambda: sum(waits), sleep=waits.append) == BOTH[1:]
    assert ROOM_S <= sum(waits) < ROOM_S + 2


def test_a_gpu_needs_a_cpu_too(free: list[Any]) -> None:
    box = Box("1", "10.0.0.1", 1, {"CPU": 1.0, "GPU": 1.0})
    free += [{"1": {"GPU": 1.0}}]
    waits: list[float] = []
    assert with_room([box], now_s=lambda: sum(waits), sleep=waits.append) == []
