"""Checkpoints on their way to the head, while training goes on."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from actors.delivery import TRIES, Delivery
from mulm.checkpoint_files import checkpoints, prune_checkpoints
from mulm.errors import CorruptError, DeadlineError, MulmError, NoSpaceError
from mulm.model.checkpoint import load_checkpoint
from tests.unit.actors import test_courier
from tests.unit.actors.test_courier import courier, far, head, line, names, shelf, write

__all__ = ["courier", "far", "head", "line"]

_small_pieces = test_courier._small_pieces


class Road:
    """Takes what is sent, when it is opened; may refuse."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.arrived: list[tuple[str, int, int | None]] = []
        self.refusals: list[Exception] = []

    def send(self, path: Path, keep: int, spared_step: int | None) -> None:
        assert self.is_open.wait(10)
        if self.refusals:
            raise self.refusals.pop(0)
        self.arrived.append((path.name, keep, spared_step))


@pytest.fixture
def road() -> Road:
    return Road()


@pytest.fixture
def said() -> list[str]:
    return []


def folder(tmp_path: Path, step: int) -> Path:
    path = tmp_path / f"step-{step:08d}"
    path.mkdir(exist_ok=True)
    return path


def wait_until_on_its_way(delivery: Delivery) -> None:
    end_s = time.monotonic() + 5
    while delivery._waiting is not None:
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_a_save_waits_for_no_line_and_the_newest_goes(
    road: Road, tmp_path: Path, said: list[str]
) -> None:
    delivery = Delivery(road.send)
    road.is_open.clear()
    begun_s = time.monotonic()
    delivery.add(folder(tmp_path, 1), 2, None, said.append)
    wait_until_on_its_way(delivery)
    for step in (2, 3, 4):
        delivery.add(folder(tmp_path, step), 2, None, said.append)
    assert time.monotonic() - begun_s < 5
    assert not delivery.finish(0.05)
    road.is_open.set()
    assert delivery.finish(10)
    assert [name for name, *_ in road.arrived] == ["step-00000001", "step-00000004"]
    assert said == []


def test_the_best_goes_too_though_a_newer_one_took_its_place(
    road: Road, tmp_path: Path, said: list[str]
) -> None:
    delivery = Delivery(road.send)
    road.is_open.clear()
    delivery.add(folder(tmp_path, 1), 1, 1, said.append)
    wait_until_on_its_way(delivery)
    for step, best in ((2, 2), (3, 2)):
        delivery.add(folder(tmp_path, step), 1, best, said.append)
    road.is_open.set()
    assert delivery.finish(10)
    delivery.add(folder(tmp_path, 4), 1, 2, said.append)
    assert delivery.finish(10)
    assert [name for name, *_ in road.arrived] == [
        "step-00000001", "step-00000002", "step-00000003", "step-00000004",
    ]  # fmt: skip


def test_what_comes_damaged_is_sent_again(road: Road, tmp_path: Path, said: list[str]) -> None:
    delivery = Delivery(road.send)
    road.refusals = [CorruptError("torn"), CorruptError("torn")]
    delivery.add(folder(tmp_path, 1), 1, None, said.append)
    assert delivery.finish(10)
    assert [name for name, *_ in road.arrived] == ["step-00000001"]
    assert said == []


@pytest.mark.parametrize(
    "refusals", [[CorruptError("torn")] * TRIES, [DeadlineError("the head is slow")]]
)
def test_what_cannot_be_brought_is_told_and_the_next_goes(
    road: Road, tmp_path: Path, said: list[str], refusals: list[Exception]
) -> None:
    delivery = Delivery(road.send)
    road.refusals = list(refusals)
    delivery.add(folder(tmp_path, 1), 1, None, said.append)
    assert delivery.finish(10)
    assert said == [f"step-00000001 is on this worker's machine alone: {refusals[0]}"]
    delivery.add(folder(tmp_path, 2), 1, None, said.append)
    assert delivery.finish(10)
    assert [name for name, *_ in road.arrived] == ["step-00000002"]


@pytest.mark.parametrize("error", [NoSpaceError("full"), ValueError("of another kind")])
def test_what_later_ones_would_meet_too_is_raised_once(
    road: Road, tmp_path: Path, said: list[str], error: Exception
) -> None:
    delivery = Delivery(road.send)
    road.refusals = [error]
    delivery.add(folder(tmp_path, 1), 1, None, said.append)
    kind = NoSpaceError if isinstance(error, NoSpaceError) else MulmError
    with pytest.raises(kind, match=str(error)):
        delivery.finish(10)
    assert delivery.finish(10)
    delivery.add(folder(tmp_path, 2), 1, None, said.append)
    assert delivery.finish(10)
    assert [name for name, *_ in road.arrived] == ["step-00000002"]


def test_one_that_was_replaced_before_it_was_opened_is_nothing_to_tell(
    road: Road, tmp_path: Path, said: list[str]
) -> None:
    delivery = Delivery(road.send)
    road.refusals = [CorruptError("no manifest")] * TRIES
    gone = tmp_path / "step-00000001"
    delivery.add(gone, 1, None, said.append)
    assert delivery.finish(10)
    assert said == []


def test_a_torn_piece_costs_a_second_sending(
    courier: Any, line: Any, head: Any, far: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = line.host.add, []

    def tears_once(run_id: str, sha: str, size_bytes: int, start: int, piece: bytes) -> int:
        calls.append(start)
        if len(calls) == 2:
            piece = b"\x55" * len(piece)
        taken: int = honest(run_id, sha, size_bytes, start, piece)
        return taken

    monkeypatch.setattr(line.host, "add", tears_once)
    delivery = Delivery(courier.send_checkpoint)
    delivery.add(write(far, 1), 2, None, said.append)
    assert delivery.finish(30)
    assert said == []
    assert names(head) == ["step-00000001"]
    load_checkpoint(checkpoints(shelf(head))[0])


def test_a_writer_that_prunes_does_not_disturb_what_is_on_its_way(
    courier: Any, line: Any, head: Any, far: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = line.host.add
    removed = []

    def prunes(*arguments: Any) -> int:
        if not removed:
            write(far, 2)
            prune_checkpoints(shelf(far), 1)
            removed.append(names(far))
        taken: int = honest(*arguments)
        return taken

    monkeypatch.setattr(line.host, "add", prunes)
    delivery = Delivery(courier.send_checkpoint)
    delivery.add(write(far, 1), 1, None, said.append)
    assert delivery.finish(30)
    assert removed == [["step-00000002"]]
    assert names(head) == ["step-00000001"]
    load_checkpoint(checkpoints(shelf(head))[0])
    assert said == []
