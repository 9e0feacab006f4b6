from __future__ import annotations

import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from actors.cluster_info import ClusterInfo
from actors.head import Head, fresh_temp_dir
from mulm.home import Home
from mulm.settings import Settings


@pytest.fixture
def head(home: Home) -> Head:
    info = ClusterInfo(
        id="c1",
        gcs_address="127.0.0.1:6379",
        dashboard_url="http://127.0.0.1:8265",
        http_host="0.0.0.0",
        http_port=8000,
        pid=0,
        temp_dir="/tmp/mulm-x",
    )
    return Head(home, Settings(n_cpus=3), info)


def test_the_command_keeps_to_loopback_and_to_its_folder(head: Head) -> None:
    command = head.command()
    pairs = dict(pairwise(command))
    assert pairs["--node-ip-address"] == pairs["--dashboard-host"] == "127.0.0.1"
    assert pairs["--port"] == "6379"
    assert pairs["--dashboard-port"] == "8265"
    assert pairs["--temp-dir"] == "/tmp/mulm-x/ray"
    assert pairs["--num-cpus"] == "3"
    assert "0.0.0.0" not in command


def test_the_environment_asks_for_the_token(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "stolen")
    monkeypatch.setenv("PATH", "/bin")
    env = head.env()
    assert env["RAY_API_SERVER_ADDRESS"] == head.info.dashboard_url
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_AUTH_TOKEN_PATH"] == str(head.home.ray_token)
    assert {"RAY_ADDRESS", "RAY_AUTH_TOKEN"}.isdisjoint(env)
    assert env["MULM_CLUSTER"] == "c1"
    assert env["PATH"] == f"{Path(sys.executable).parent}:/bin"
    assert (Path(env["PYTHONPATH"].split(":")[0]) / "actors").is_dir()


def test_the_folder_is_ours_and_short(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 40)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    folder = fresh_temp_dir()
    assert not folder.exists()
    head.info = head.info.model_copy(update={"temp_dir": str(folder)})
    head.make_temp_dir()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        socket = folder / "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
        assert len(str(socket)) < 104
        assert Path(head.env()["TMPDIR"]).parent == folder
        assert Path(head.env()["TMPDIR"]).is_dir()
        with pytest.raises(FileExistsError):
            head.make_temp_dir()
    finally:
        shutil.rmtree(folder)


def test_clients_reach_the_api_on_loopback(head: Head) -> None:
    assert head.info.api_url == "http://127.0.0.1:8000"


def test_a_head_with_members_keeps_what_it_knows(home: Home) -> None:
    info = ClusterInfo(
        id="c1", gcs_address="10.0.0.1:6379", dashboard_url="http://127.0.0.1:8265",
        http_host="127.0.0.1", http_port=8000, pid=0, temp_dir="/tmp/mulm-x",
    )  # fmt: skip
    env = Head(home, Settings(cluster_host="10.0.0.1"), info).env()
    assert env["RAY_gcs_storage"] == "rocksdb"
    assert env["RAY_gcs_storage_path"] == str(home.cluster_state)
    alone = Head(home, Settings(), info.model_copy(update={"gcs_address": "127.0.0.1:6379"})).env()
    assert "RAY_gcs_storage" not in alone
