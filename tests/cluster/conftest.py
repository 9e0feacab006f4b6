"""One real cluster for all tests that need one: free ports, a home of its own, ended at the end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from actors.cluster_info import ClusterInfo, ray_env, read_info
from actors.job_client import JobClient
from jobs.up import start, stop
from mulm.home import Home
from mulm.settings import Settings

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits here has a deadline of its own, and says what it waited for."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800), append=False)


@dataclass(slots=True)
class Cluster:
    home: Home
    settings: Settings
    last: ClusterInfo
    """The life that was seen last."""

    @property
    def info(self) -> ClusterInfo:
        """The life of now: after a fault it is another one."""
        self.last = read_info(self.home) or self.last
        return self.last

    @property
    def env(self) -> dict[str, str]:
        """For subprocesses: as a user's shell who has set MULM_HOME."""
        return environment(self.home)

    @property
    def jobs(self) -> JobClient:
        return JobClient.of(self.info, self.home)


def environment(home: Home) -> dict[str, str]:
    """The environment of a process that knows the home and the cluster's token."""
    venv = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **ray_env(home),
        "PATH": f"{venv}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = Home(tmp_path_factory.mktemp("cluster") / "home")
    settings = Settings(http_port=0, dashboard_port=0, n_cpus=4)
    # Told to end, pytest would die without a word and leave the cluster behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    info = start(home, settings)
    try:
        yield Cluster(home, settings, info)
    finally:
        stop(home, jobs_grace_s=5.0)
        signal.signal(signal.SIGTERM, before)
