"""How a machine that joins a cluster runs its part of Ray: command, environment, labels.

Used by `jobs.membership`; decides everything and does nothing. Invariants: what it starts carries
this home's mark, so that it is found and ended; everything temporary lies in one folder; the token
is in a file.
"""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import ValidationError

from actors.cluster_info import ray_env
from actors.drain import MEMBER_LABEL
from actors.head import node_env
from actors.port_plan import plan_ports
from mulm.config import Frozen
from mulm.home import Home
from mulm.settings import Settings

OBJECT_STORE_BYTES = 256_000_000


class MemberInfo(Frozen):
    """One membership of this machine: `MULM_HOME/joined.json`."""

    id: str
    head: str
    """The address of the cluster, HOST:PORT."""
    name: str
    trust: str
    pid: int
    """Of the process that looks after it."""
    started_s: float
    """When that began, by the system's clock: a number is given again after a reboot."""
    temp_dir: str

    @property
    def is_kept(self) -> bool:
        """Whether the process that looks after it lives: of that number, begun at that time."""
        try:
            process = psutil.Process(self.pid)
            is_ended = process.status() == psutil.STATUS_ZOMBIE  # and its parent has not looked yet
            return not is_ended and abs(process.create_time() - self.started_s) < 1.0
        except psutil.Error:
            return False


def read_joined(home: Home) -> MemberInfo | None:
    """The membership that the file tells of, whether or not it is true any more."""
    try:
        return MemberInfo.model_validate_json(home.joined.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


@dataclass(frozen=True, slots=True)
class Member:
    """One machine's part."""

    home: Home
    info: MemberInfo
    link_labels: Mapping[str, str] = field(default_factory=dict)
    """What was measured of its line to the head."""
    ports: range = Settings().port_range
    """What it listens on."""

    @property
    def log(self) -> Path:
        """What Ray prints."""
        return Path(self.info.temp_dir) / "node.log"

    @property
    def arrival_log(self) -> Path:
        """What went wrong with asking the head whether it lists this machine."""
        return Path(self.info.temp_dir) / "arrival.log"

    def command(self) -> list[str]:
        """Ray's start command; its process lives as long as the machine is a member."""
        labels = {
            MEMBER_LABEL: self.info.id,
            "mulm.name": label_value(self.info.name),
            "mulm.trust": self.info.trust,
            **gpu_labels(),
            **self.link_labels,
        }
        host = address_towards(self.info.head)
        return [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
            "--address", self.info.head,
            "--node-ip-address", host,
            *plan_ports(host, self.ports).arguments,
            "--temp-dir", str(Path(self.info.temp_dir) / "ray"),
            "--object-store-memory", str(OBJECT_STORE_BYTES),
            "--labels", ",".join(f"{key}={value}" for key, value in labels.items()),
            "--include-log-monitor", "false",
            "--disable-usage-stats",
            "--log-style", "record", "--log-color", "false",
        ]  # fmt: skip

    def env(self) -> dict[str, str]:
        """The environment of all that it starts here."""
        return {**node_env(self.info.id, self.info.temp_dir), **member_env(self.home)}


def member_env(home: Home) -> dict[str, str]:
    """What a process of this machine needs to speak to the cluster that it joined."""
    return {**ray_env(home, is_open=True), "RAY_AUTH_TOKEN_PATH": str(home.join_token)}


def address_towards(head: str) -> str:
    """The address of this machine on the network that leads to the head."""
    host, _, port = head.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))  # sends nothing
        address: str = probe.getsockname()[0]
    return address


def gpu_labels() -> Mapping[str, str]:
    """The name and the memory of the first GPU, where torch finds one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    gpu = torch.cuda.get_device_properties(0)
    return {"mulm.gpu": label_value(gpu.name), "mulm.vram_gib": f"{gpu.total_memory / 2**30:.0f}"}


def label_value(text: str) -> str:
    """As Ray allows it: letters, digits, `-`, `_`, `.`, at most 63, none of the marks at an end."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:63].strip("-_.") or "unnamed"
