"""A machine that the head lets go: which one is meant, and what is done on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from actors.let_go import leave_here, node_to_let_go
from actors.member import MemberInfo
from mulm.errors import ConflictError, NotFoundError
from mulm.home import Home


def node(name: str | None, address: str, node_id: str, **more: object) -> dict[str, object]:
    labels = {"mulm.member": "m"} if name else {}
    return {
        "id": node_id, "name": name, "address": address, "is_alive": True, "is_head": False,
        "labels": labels, **more,
    }  # fmt: skip


NODES = [
    node(None, "10.0.0.1", "aaaa00", is_head=True),
    node("laptop", "10.0.0.2", "bbbb00"),
    node("twin", "10.0.0.3", "cccc00"),
    node("twin", "10.0.0.4", "cccc11"),
    node(None, "10.0.0.5", "dddd00"),
    node("away", "10.0.0.6", "eeee00", is_alive=False),
]


@pytest.mark.parametrize("wanted", ["laptop", "10.0.0.2", "bbbb00", "bbbb"])
def test_a_machine_is_known_by_name_address_and_id(wanted: str) -> None:
    assert node_to_let_go(NODES, wanted)["id"] == "bbbb00"


@pytest.mark.parametrize(
    ("wanted", "error", "word"),
    [
        ("nobody", NotFoundError, "no machine"),
        ("away", NotFoundError, "no machine"),
        ("twin", NotFoundError, "2 machines"),
        ("bb", NotFoundError, "no machine"),
        ("10.0.0.1", ConflictError, "the head itself"),
        ("10.0.0.5", ConflictError, "did not come by"),
    ],
)
def test_what_cannot_be_let_go_is_said(wanted: str, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        node_to_let_go(NODES, wanted)


@pytest.fixture
def keeper() -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_the_process_that_looks_after_it_is_told_and_no_other(
    home: Home, keeper: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULM_HOME", str(home.create().root))
    assert not leave_here("m1")

    def write(started_s: float) -> None:
        info = MemberInfo(
            id="m1", head="x:1", name="x", trust="family", pid=keeper.pid, started_s=started_s,
            temp_dir="/tmp/mulm-x",
        )  # fmt: skip
        home.joined.write_text(info.model_dump_json())

    write(keeper.create_time() - 100)  # its number was given again
    assert not leave_here("m1")
    write(keeper.create_time())
    assert not leave_here("m2")
    assert keeper.status() != psutil.STATUS_ZOMBIE
    assert leave_here("m1")
    _, status = os.waitpid(keeper.pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
