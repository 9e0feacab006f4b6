from __future__ import annotations

import fcntl
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from actors import cluster
from actors.cluster_info import ClusterInfo, read_info
from actors.head import Head
from actors.processes import Pack
from mulm.errors import ConflictError, MulmError, NoSpaceError, NotRunningError, PortBusyError
from mulm.home import Home
from mulm.settings import Settings

FREE = Settings(http_port=0, dashboard_port=0)
DEAD = ClusterInfo(
    id="dead",
    gcs_address="127.0.0.1:1",
    dashboard_url="http://127.0.0.1:1",
    http_host="127.0.0.1",
    http_port=1,
    pid=os.getpid(),  # a number that another process has by now
    temp_dir="/tmp/mulm-none",
)


@pytest.fixture
def never_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Ray's place is taken by a command that fails, and temporary folders lie in `tmp_path`."""
    monkeypatch.setattr(
        "actors.head.Head.command", lambda head: ["/bin/sh", "-c", "echo boom; exit 1"]
    )
    monkeypatch.setattr("actors.head.Head.hosts_command", lambda head, s: ["/bin/sleep", "60"])
    monkeypatch.setattr("actors.head._LONGEST_BASE", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_not_up(home: Home) -> None:
    with pytest.raises(NotRunningError) as caught:
        cluster.connect(home)
    assert "mulm up" in caught.value.hint
    assert cluster.down(home) is False
    assert cluster.down(Home(home.root / "absent")) is False


@pytest.mark.parametrize("text", [DEAD.model_dump_json(), "{", '{"id": 1}', ""])
def test_a_file_of_a_dead_cluster_is_not_believed(home: Home, text: str) -> None:
    home.cluster.write_text(text)
    with pytest.raises(NotRunningError):
        cluster.connect(home)
    cluster.down(home)
    assert not home.cluster.exists()


def test_down_follows_no_damaged_file_into_other_folders(home: Home, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    home.cluster.write_text(DEAD.model_copy(update={"temp_dir": str(precious)}).model_dump_json())
    assert cluster.down(home) is True
    assert precious.exists()


def test_a_second_up_at_the_same_time(home: Home) -> None:
    with (home.root / "up.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="is starting"):
            cluster.up(home, FREE)


def test_a_second_up_afterwards(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.cluster.write_text(DEAD.model_dump_json())
    monkeypatch.setattr(cluster, "is_alive", lambda pid, cluster_id: True)
    with pytest.raises(ConflictError) as caught:
        cluster.up(home, FREE)
    assert DEAD.dashboard_url in caught.value.message
    assert str(DEAD.pid) in caught.value.message


@pytest.mark.parametrize("field", ["http_port", "dashboard_port"])
def test_a_busy_port(home: Home, never_started: Path, field: str) -> None:
    before = sorted(never_started.iterdir())
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = FREE.model_copy(update={field: server.getsockname()[1]})
        with pytest.raises(PortBusyError) as caught:
            cluster.up(home, settings)
    assert f"MULM_{field.upper()}=" in caught.value.hint
    assert sorted(never_started.iterdir()) == before


def test_a_start_that_fails_leaves_nothing(home: Home, never_started: Path) -> None:
    before = sorted(never_started.iterdir())
    home.cluster.write_text(json.dumps({"id": "stale"}))
    with pytest.raises(MulmError) as caught:
        cluster.up(home, FREE)
    assert "boom" in caught.value.hint
    assert sorted(never_started.iterdir()) == before
    assert read_info(home) is None
    assert home.ray_token.stat().st_mode & 0o777 == 0o600
    assert cluster.down(home) is False


def test_ctrl_c_during_up_leaves_nothing(
    home: Home, never_started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(never_started.iterdir())
    monkeypatch.setattr("actors.head.Head.command", lambda head: ["/bin/sleep", "60"])

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actors.cluster.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.up(home, FREE)
    assert sorted(never_started.iterdir()) == before
    assert cluster.down(home) is False


@pytest.mark.parametrize("where", ["head.Head.make_temp_dir", "cluster.write_atomic"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, NoSpaceError("full")])
def test_no_moment_of_up_leaves_anything(
    home: Home, never_started: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    cluster._ensure_token(home)
    before = sorted(never_started.iterdir())
    monkeypatch.setattr("actors.head.Head.command", lambda head: ["/bin/sleep", "60"])
    monkeypatch.setattr("actors.head.Head.hosts_command", lambda head, s: ["/bin/sh", "-c", "exit"])
    monkeypatch.setattr("actors.cluster._answers", lambda dashboard: True)
    make_temp_dir = Head.make_temp_dir

    def stop(*args: object, **_: object) -> None:
        if isinstance(args[0], Head):
            make_temp_dir(args[0])
        raise error

    monkeypatch.setattr(f"actors.{where}", stop)
    with pytest.raises(BaseException) as caught:
        cluster.up(home, FREE)
    assert isinstance(caught.value, KeyboardInterrupt | NoSpaceError)
    assert sorted(never_started.iterdir()) == before
    assert Pack(home).find() == []


def test_down_waits_for_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.cluster.write_text(DEAD.model_dump_json())
    with (home.root / "up.lock").open("w") as file, ThreadPoolExecutor() as pool:
        fcntl.flock(file, fcntl.LOCK_EX)
        going = pool.submit(cluster.down, home)
        with pytest.raises(TimeoutError):
            going.result(0.3)
        assert home.cluster.exists()
        fcntl.flock(file, fcntl.LOCK_UN)
        assert going.result(10) is True
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(cluster, "_DOWN_PATIENCE_S", 0.1)
        with pytest.raises(ConflictError, match="is starting or ending"):
            cluster.down(home)


def test_what_prepares_runs_before_anything_starts(home: Home) -> None:
    def refuse() -> None:
        raise ConflictError("not now")

    with pytest.raises(ConflictError, match="not now"):
        cluster.up(home, FREE, prepare=refuse)
    assert not home.cluster.exists()
