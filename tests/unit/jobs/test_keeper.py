from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import pytest

from actors.cluster_info import MARKER, ClusterInfo, read_info
from actors.processes import Pack, is_alive, spawn
from jobs.keeper import MAX_RETURNS, WINDOW_S, keep, parts_of, start_keeper, with_its_ports
from mulm.errors import NoSpaceError
from mulm.home import Home
from mulm.settings import Settings

ID = "0123456789ab"
GONE = 2**22 + 1
"""No process has this number."""


class Life:
    """A cluster that lives as long as the test says, and what its keeper did."""

    def __init__(self, home: Home, pid: int = GONE) -> None:
        self.home, self.now_s, self.slept_s = home, 1000.0, [0.0]
        self.ups: list[list[float]] = []
        self.went_on: list[bool] = []
        self.n_failures = 0
        self.write(ID, pid)

    def write(self, cluster_id: str, pid: int) -> None:
        info = ClusterInfo(
            id=cluster_id, gcs_address="127.0.0.1:1", dashboard_url="http://127.0.0.1:8265",
            http_host="127.0.0.1", http_port=8000, pid=pid, temp_dir="/nowhere",
        )  # fmt: skip
        self.home.cluster.write_text(info.model_dump_json())

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def bring_up(self, returned_s: Sequence[float], goes_on: bool) -> None:
        self.ups.append(list(returned_s))
        self.went_on.append(goes_on)
        if len(self.ups) <= self.n_failures:
            raise NoSpaceError("full")

    def keep(self, returned_s: Sequence[float] = (), **options: Any) -> bool:
        sleep = options.get("sleep", self.sleep)
        return keep(self.home, ID, returned_s, self.bring_up, sleep=sleep, clock=lambda: self.now_s)


def test_a_cluster_that_died_is_brought_back_and_its_next_keeper_knows(home: Home) -> None:
    life = Life(home)
    assert life.keep([990.0])
    assert life.ups == [[990.0, 1000.0]]


def test_what_was_ended_or_replaced_stays_so(home: Home) -> None:
    life = Life(home)
    home.cluster.unlink()
    assert not life.keep()
    life.write("another", GONE)
    assert not life.keep()
    assert life.ups == []


def test_a_living_cluster_is_left_alone_until_it_is_ended(home: Home) -> None:
    pid = spawn(["/bin/sleep", "60"], os.environ | {MARKER: ID}, home.root / "log")
    try:
        life = Life(home, pid)

        def sleep(seconds: float) -> None:
            life.sleep(seconds)
            if len(life.slept_s) == 4:
                home.cluster.unlink()

        assert not life.keep(sleep=sleep)
        assert (len(life.slept_s), life.ups) == (4, [])
    finally:
        Pack(home, ID).end(0.0)


RAYLET = "/x/ray/raylet/raylet"
SHELL = "(exec -a /x/ray/raylet/raylet sleep 60) & (exec -a /x/ray/other sleep 60) & wait; sleep 60"


def test_a_head_that_has_lost_a_part_counts_as_dead(home: Home) -> None:
    pid = spawn(["/bin/bash", "-c", SHELL], os.environ | {MARKER: ID}, home.root / "log")
    try:
        life = Life(home, pid)
        info = read_info(home)
        assert info is not None
        # Until the shell's children have become what they pass for, all have its whole line.
        end_s = time.monotonic() + 10.0
        parts = parts_of(info)
        while [part.cmdline()[0] for part in parts] != [RAYLET]:
            assert time.monotonic() < end_s, "no part was found"
            time.sleep(0.01)
            parts = parts_of(info)

        def sleep(seconds: float) -> None:
            life.sleep(seconds)
            if parts[0].is_running():
                parts[0].kill()
                parts[0].wait(5.0)

        assert life.keep(sleep=sleep)
        assert is_alive(pid, ID)
        assert life.ups == [[life.now_s]]
    finally:
        Pack(home, ID).end(0.0)


def test_it_gives_up_when_it_dies_again_and_again_and_forgets_what_was_long_ago(home: Home) -> None:
    life = Life(home)
    lately = [1000.0 - n for n in range(MAX_RETURNS)]
    assert not life.keep(lately)
    assert life.ups == []
    assert life.keep([lately[0] - WINDOW_S, *lately[1:]])
    assert life.ups == [[*lately[1:], 1000.0]]


@pytest.mark.parametrize(("n_failures", "is_back", "n_tries"), [(2, True, 3), (9, False, 5)])
def test_what_does_not_start_is_tried_again(
    home: Home, n_failures: int, is_back: bool, n_tries: int
) -> None:
    life = Life(home)
    life.n_failures = n_failures
    assert life.keep() is is_back
    assert len(life.ups) == n_tries
    assert life.went_on == [True] + [False] * (n_tries - 1), "what it knew may be what is wrong"
    assert life.slept_s == sorted(life.slept_s)


def test_it_comes_back_where_it_was_and_ends_with_its_cluster(home: Home) -> None:
    life = Life(home)
    info = read_info(home)
    assert info is not None
    settings = with_its_ports(Settings(http_port=0, dashboard_port=0), info)
    assert (settings.http_port, settings.dashboard_port) == (8000, 8265)
    living = spawn(["/bin/sleep", "60"], os.environ | {MARKER: ID}, home.root / "log")
    life.write(ID, living)
    pid = start_keeper(home, settings, info)
    pack = Pack(home, ID)
    assert {pid, living} <= {process.pid for process in pack.find()}
    pack.end(5.0)
    assert pack.find() == []
    assert (home.root / "keeper.log").read_text() == ""
