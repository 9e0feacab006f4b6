"""How a machine that joins runs its part of Ray."""

from __future__ import annotations

from itertools import pairwise

import pytest

from actors import member
from actors.member import Member, MemberInfo, label_value
from mulm.home import Home


@pytest.fixture
def joined(home: Home) -> Member:
    info = MemberInfo(
        id="m1", head="127.0.0.1:6379", name="Anna's laptop", trust="guest", pid=1, started_s=0.0,
        temp_dir="/tmp/mulm-x",
    )  # fmt: skip
    return Member(home, info)


def test_the_command_names_the_head_the_labels_and_its_folder(joined: Member) -> None:
    pairs = dict(pairwise(joined.command()))
    assert pairs["--address"] == "127.0.0.1:6379"
    assert pairs["--node-ip-address"] == "127.0.0.1"
    assert int(pairs["--node-manager-port"]) in joined.ports
    assert pairs["--temp-dir"] == "/tmp/mulm-x/ray"
    assert "mulm.name=Anna-s-laptop" in pairs["--labels"]
    assert "mulm.trust=guest" in pairs["--labels"]


def test_the_token_is_in_a_file_alone(joined: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "stolen")
    env = joined.env()
    assert env["RAY_AUTH_TOKEN_PATH"] == str(joined.home.join_token)
    assert "RAY_AUTH_TOKEN" not in env
    assert env["MULM_CLUSTER"] == "m1"
    assert env["MULM_HOME"] == str(joined.home.root)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a b", "a-b"),
        ("ü", "unnamed"),
        ("-x.", "x"),
        ("y" * 80, "y" * 63),
        ("RTX 4090", "RTX-4090"),
    ],
)
def test_labels_are_as_ray_wants_them(text: str, label: str) -> None:
    assert label_value(text) == label


def test_gpus_are_told_where_torch_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        name, total_memory = "NVIDIA GeForce RTX 3060", 12 << 30

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: Gpu)
    labels = member.gpu_labels()
    assert labels == {"mulm.gpu": "NVIDIA-GeForce-RTX-3060", "mulm.vram_gib": "12"}
