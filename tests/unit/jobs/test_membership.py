"""A membership: told when the head lists the machine, begun again until its user leaves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.member import Member, MemberInfo
from actors.processes import Pack
from jobs import membership
from jobs.membership import Stopping, keep_up
from mulm.errors import NotRunningError
from mulm.home import Home


class Leaving(Stopping):
    """Asked to leave when so much was said."""

    def __init__(self, after: int) -> None:
        self.is_set, self.after = False, after
        self.said: list[str] = []

    def tell(self, text: str) -> None:
        self.said.append(text)
        self.is_set = len(self.said) >= self.after


@pytest.fixture
def member(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Member:
    home.create()
    info = MemberInfo(
        id="m1", head="127.0.0.1:1", name="x", trust="family", pid=1, started_s=0.0,
        temp_dir=str(tmp_path),
    )  # fmt: skip
    monkeypatch.setattr(membership, "trouble_of", lambda member: member.log.read_text())
    monkeypatch.setattr(membership, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(membership, "_measured", lambda member, tell: {})
    monkeypatch.setattr(Member, "env", lambda self: {"MULM_CLUSTER": "m1"})
    return Member(home, info)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """What the node's process does, and what the question about its arrival comes to."""

    def choose(node: str, arrival: int, after_s: float = 0.0) -> None:
        monkeypatch.setattr(Member, "command", lambda self: [sys.executable, "-c", node])
        real = membership.spawn

        def spawn(command: list[str], env: dict[str, str], log: Path) -> int:
            if "actors.arrival" in command:
                text = f"import sys, time; time.sleep({after_s}); sys.exit({arrival})"
                command = [sys.executable, "-c", text]
            return real(command, env, log)

        monkeypatch.setattr(membership, "spawn", spawn)

    return choose


SLEEP = "import time; time.sleep(60)"
DIE = "print('it was so'); import time; time.sleep(0.3)"


def test_nothing_is_said_before_the_head_lists_it(
    member: Member, runs: Callable[..., None]
) -> None:
    runs(SLEEP, 0, after_s=0.7)
    leaving, begun_s = Leaving(1), time.monotonic()
    keep_up(member, leaving, leaving.tell)
    assert leaving.said == ["joined 127.0.0.1:1 as 'x'; Ctrl-C or `mulm leave` ends it"]
    assert time.monotonic() - begun_s > 0.7
    Pack(member.home, "m1").end(0.1)


@pytest.mark.parametrize(("node", "arrival", "after_s"), [(DIE, 0, 60), (SLEEP, 1, 0)])
def test_a_machine_that_never_arrives_is_told_with_its_log_and_ends(
    member: Member, runs: Callable[..., None], node: str, arrival: int, after_s: float
) -> None:
    runs(node, arrival, after_s)
    leaving = Leaving(1)
    with pytest.raises(NotRunningError, match="did not take this machine in") as caught:
        keep_up(member, leaving, leaving.tell)
    assert leaving.said == []
    assert ("it was so" in str(caught.value.hint)) == (node == DIE)
    assert Pack(member.home, "m1").find() == []


def test_one_that_takes_too_long_is_not_waited_for(
    member: Member, runs: Callable[..., None]
) -> None:
    runs(SLEEP, 0, after_s=60)
    leaving = Leaving(1)
    with pytest.raises(NotRunningError):
        keep_up(member, leaving, leaving.tell, arrival_s=0.5)
    assert Pack(member.home, "m1").find() == []


def test_one_that_was_there_comes_again_and_says_why(
    member: Member, runs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs(DIE, 0)
    asked: list[bool] = []

    def is_back(_: Member) -> bool:
        asked.append(True)
        return len(asked) > 2

    monkeypatch.setattr(membership, "_is_back", is_back)
    leaving = Leaving(3)
    keep_up(member, leaving, leaving.tell)
    first, gone, again = leaving.said
    assert first == again
    assert gone == "the link to 127.0.0.1:1 is gone; trying again\nit was so"
    assert len(asked) == 3
    Pack(member.home, "m1").end(0.1)


def test_a_line_that_cannot_be_measured_is_told_and_joins_all_the_same(
    home: Home, tmp_path: Path
) -> None:
    info = MemberInfo(
        id="m1", head="127.0.0.1:1", name="x", trust="family", pid=1, started_s=0.0,
        temp_dir=str(tmp_path),
    )  # fmt: skip
    said: list[str] = []
    measured = membership._measured
    assert measured(Member(home, info), said.append) == {}
    assert said == ["the line to 127.0.0.1:1 was not measured"]
