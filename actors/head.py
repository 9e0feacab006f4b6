"""How Ray's head is started on this machine: its command line, its environment, its folder.

Used by `actors.cluster.up`; decides everything and does nothing but make one folder. Invariant:
all addresses are loopback, but that of the cluster where its user opened it to other machines; all
ports are free ones or the user's; the token is asked for.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import actors
from actors.cluster_info import MARKER, ClusterInfo, ray_env
from actors.cpus import usable_cpus
from actors.port_plan import plan_ports
from actors.processes import TEMP_DIR_VARIABLE
from mulm.atomic import naming_full_disk
from mulm.home import Home
from mulm.settings import Settings

_LOOPBACK = "127.0.0.1"
_LONGEST_BASE = 30
"""Characters: Ray adds about 75 for its sockets, and their paths end at 107."""

ENV_VARIABLES_OF_RAY = {
    "RAY_START_HOOK": "actors.start_hook.trim",
    # A stopped job may write a checkpoint first.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "TOKENIZERS_PARALLELISM": "false",
}
FOUND_SOON = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""A machine that vanished is noticed after 8 s, not after a minute."""


@dataclass(slots=True)
class Head:
    """One head to be started; `info.pid` is known when it was."""

    home: Home
    settings: Settings
    info: ClusterInfo

    @property
    def log(self) -> Path:
        """What the starting processes print."""
        return Path(self.info.temp_dir) / "head.log"

    @property
    def ray_dir(self) -> Path:
        """Ray's own folder, which it opens to everybody: hence inside a closed one."""
        return Path(self.info.temp_dir) / "ray"

    @property
    def scratch_dir(self) -> Path:
        """Where its processes put temporary files, so that they go when it goes."""
        return Path(self.info.temp_dir) / "tmp"

    def make_temp_dir(self) -> None:
        """Make the cluster's folder, for us only."""
        with naming_full_disk(Path(self.info.temp_dir).parent):
            Path(self.info.temp_dir).mkdir(mode=0o700)
            self.scratch_dir.mkdir()

    def command(self) -> list[str]:
        """Ray's start command; its process lives as long as the head."""
        return [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address", self.info.gcs_address.rpartition(":")[0],
            "--port", self.info.gcs_address.rpartition(":")[2],
            "--dashboard-host", _LOOPBACK,
            "--dashboard-port", self.info.dashboard_url.rpartition(":")[2],
            *self._ports(),
            "--temp-dir", str(self.ray_dir),
            "--num-cpus", str(self.settings.n_cpus or max(2, usable_cpus())),
            "--object-store-memory", str(self.settings.object_store_bytes),
            "--include-log-monitor", "false",
            "--disable-usage-stats",
            "--log-style", "record", "--log-color", "false",
        ]  # fmt: skip

    def _ports(self) -> list[str]:
        """Any free ones on loopback; those that a firewall opens where other machines join."""
        if not self.info.is_open:
            return ["--dashboard-agent-listen-port", "0"]
        return plan_ports(self.settings.cluster_host, self.settings.port_range).arguments

    def hosts_command(self, timeout_s: float) -> list[str]:
        """Starts the ledger and the store as soon as the head can take them."""
        return [
            sys.executable, "-m", "actors.host_start",
            self.info.gcs_address, str(self.ray_dir), str(self.home.root), str(timeout_s),
        ]  # fmt: skip

    def env(self) -> dict[str, str]:
        """The environment of the whole cluster: the user's, without what would lead Ray astray."""
        return {
            **node_env(self.info.id, self.info.temp_dir),
            **ray_env(self.home, is_open=self.info.is_open),
            **(_lasting(self.home) if self.info.is_open else {}),
            **self.settings.to_env(),
            # Ray's own helpers of a run ask for states there; else they look for any cluster.
            "RAY_API_SERVER_ADDRESS": self.info.dashboard_url,
        }


def _lasting(home: Home) -> dict[str, str]:
    """Of a head with members: it notices soon who vanished, and finds them when it has died."""
    return {
        **FOUND_SOON,
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(home.cluster_state),
    }


def node_env(mark: str, temp_dir: str) -> dict[str, str]:
    """What all that we start on a machine needs, of a head and of a member alike.

    It carries the mark by which it is found again, and puts temporary files below `temp_dir`.
    """
    inherited = {key: text for key, text in os.environ.items() if not key.startswith("RAY_")}
    root = str(Path(actors.__file__).resolve().parents[1])
    return {
        **inherited,
        **ENV_VARIABLES_OF_RAY,
        MARKER: mark,
        TEMP_DIR_VARIABLE: temp_dir,
        "TMPDIR": str(Path(temp_dir) / "tmp"),
        "PATH": _joined(str(Path(sys.executable).parent), inherited.get("PATH", "")),
        "PYTHONPATH": _joined(root, inherited.get("PYTHONPATH", "")),
    }


def fresh_temp_dir() -> Path:
    """A path that nobody else can guess, short enough for sockets inside; nothing is made yet."""
    usual = tempfile.gettempdir()
    base = usual if len(usual) <= _LONGEST_BASE else "/tmp"  # noqa: S108 the folder is made ours
    return Path(base) / f"mulm-{secrets.token_hex(6)}"


def _joined(first: str, others: str) -> str:
    return os.pathsep.join([first, *(part for part in others.split(os.pathsep) if part)])
