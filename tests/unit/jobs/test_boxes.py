"""The machines on which islands belong."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest
import ray

from jobs import boxes
from jobs.boxes import Box, find_boxes, n_fitting, roomy, staying_nodes


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


BOTH = [Box("1", "10.0.0.1", 1, {"CPU": 1.0}), Box("2", "10.0.0.2", 1, {"CPU": 1.0})]


def test_who_is_taken_is_left_out() -> None:
    assert roomy(BOTH, {"1": {"CPU": 0.5, "memory": 9.0}, "2": {"CPU": 1.0}}) == BOTH[1:]
    assert roomy(BOTH, {"2": {}}) == []


def test_as_many_workers_as_have_room() -> None:
    box = Box("1", "10.0.0.1", 4, {"CPU": 1.0, "GPU": 1.0})
    assert roomy([box], {"1": {"CPU": 9.0, "GPU": 3.0}}) == [replace(box, n_workers=3)]
    assert roomy([box], {"1": {"CPU": 2.0, "GPU": 4.0}}) == [replace(box, n_workers=2)]
    assert roomy([box], {"1": {"CPU": 9.0, "GPU": 8.0}}) == [box]
    assert roomy([box], {"1": {"GPU": 4.0}}) == [], "each needs a CPU too"


def test_room_is_counted_machine_by_machine() -> None:
    halves = {"1": {"CPU": 1.5}, "2": {"CPU": 0.5}, "3": {}}
    assert n_fitting(halves, "cpu") == 1
    assert n_fitting({"1": {"CPU": 8.0, "GPU": 2.0}, "2": {"CPU": 8.0}}, "cuda") == 2


def test_who_goes_or_has_just_died_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose power was cut is listed as alive for some seconds more."""
    with (
        socket.create_server(("127.0.0.1", 0)) as here,
        socket.create_server(("127.0.0.1", 0)) as gone,
    ):
        ports = [here.getsockname()[1]] * 3 + [gone.getsockname()[1]]
        gone.close()
        nodes = [
            node(name, alive=name != "2", CPU=1) | {
                "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port
            }
            for name, port in zip("1234", ports, strict=True)
        ]  # fmt: skip
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(boxes, "draining_nodes", lambda: frozenset("3"))
        assert [staying["NodeID"] for staying in staying_nodes()] == ["1"]
