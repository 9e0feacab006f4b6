"""The application that the faults befall, in a home of its own, with a model and a dataset.

Made by `benchmarks.chaos.__main__` and by the tests. Invariants: it is the real application, on
free ports of loopback; whatever happens, all of its processes end with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from actors.cluster_info import ClusterInfo, ray_env, read_info
from actors.job_client import JobClient
from actors.processes import Pack, is_alive
from jobs.keeper import with_its_ports
from jobs.serve_model import serve_model
from jobs.up import start, stop
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.settings import Settings
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer
from serve_app.keys import ensure_first_key, read_first_key
from serve_app.settings import AppArgs

SERVED = "tiny"
DATASET = "tiny-data"
WINDOW = 4096
N_SLOTS = 8
_POLL_S = 0.05
_CALL_S = 60.0


class World:
    """An installation whose application is up.

    Args:
        home: Its home.
        settings: Those of `mulm up`.
    """

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.settings = home, settings
        self._info: ClusterInfo | None = None
        self.key = ""

    def begin(self) -> None:
        """Make what is served and trained on, bring the application up, and have it answer."""
        self.stock()
        self.up()
        serve_model(self.info, served_args(), home=self.home)

    def stock(self) -> None:
        """Make a key, and what is served and trained on; the application may be up."""
        self.home.create()
        store = Store(self.home.store)
        with Ledger(self.home.ledger) as ledger:
            ensure_first_key(self.home, ledger)
            model = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=WINDOW)
            ledger.publish("model", SERVED, model.id)
            ledger.publish("model", SERVED, _other_model(store))
            ledger.set_alias("model", SERVED, "live", 1)
            ledger.publish("dataset", DATASET, tiny_dataset(store).id)
        self.key = read_first_key(self.home)

    @property
    def info(self) -> ClusterInfo:
        """The life of the application that runs now, or the last one that did."""
        self._info = read_info(self.home) or self._info
        assert self._info is not None
        return self._info

    def up(self) -> None:
        """`mulm up`, on the ports of the life before it."""
        self._info = start(self.home, self.settings)
        self.settings = with_its_ports(self.settings, self._info)

    def require_up(self) -> None:
        """Bring it up if the case before has left it down."""
        if not is_alive(self.info.pid, self.info.id):
            self.up()

    def down(self) -> None:
        """`mulm down`."""
        stop(self.home, jobs_grace_s=5.0)

    @property
    def url(self) -> str:
        """Where HTTP is answered."""
        return self.info.api_url

    @property
    def pack(self) -> Pack:
        """All processes of the application."""
        return Pack(self.home, self.info.id)

    @property
    def jobs(self) -> JobClient:
        """Its jobs."""
        return JobClient.of(self.info, self.home)

    @property
    def env(self) -> dict[str, str]:
        """Of a process that knows the home and the cluster's token."""
        root = str(Path(__file__).parents[2])
        return os.environ | ray_env(self.home) | {"PYTHONPATH": root}

    def call(self, method: str, path: str, body: object = None, timeout_s: float = _CALL_S) -> Any:
        """One request with the first key; raises httpx.HTTPStatusError."""
        reply = httpx.request(
            method, f"{self.url}{path}", json=body, timeout=timeout_s, trust_env=False,
            headers={"Authorization": f"Bearer {self.key}"},
        )  # fmt: skip
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def mulm(self, *argv: str) -> Any:
        """What `mulm ARGV --json` prints."""
        command = [sys.executable, "-c", "from jobs.cli import main; main()", *argv, "--json"]
        done = subprocess.run(  # noqa: S603 - our own command line
            command, env=self.env, capture_output=True, text=True, timeout=180.0
        )
        if done.returncode:
            raise RuntimeError(f"mulm {' '.join(argv)} ended with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)


def served_args() -> AppArgs:
    """What is served: one engine with room for a few streams."""
    return AppArgs(
        model=f"{SERVED}@1", served_name=SERVED, n_slots=N_SLOTS, max_queued=16, max_replicas=1,
        n_threads=1, kv_cache_bytes=1 << 24,
    )  # fmt: skip


@contextmanager
def running_world(folder: Path, n_cpus: int = 4) -> Iterator[World]:
    """A world from its beginning to its end."""
    settings = Settings(http_port=0, dashboard_port=0, n_cpus=n_cpus)
    world = World(Home(folder / "home"), settings)
    try:
        world.begin()
        yield world
    finally:
        world.down()


def wait_for(is_so: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Wait until something is true; returns it. Raises TimeoutError."""
    end_s = time.monotonic() + timeout_s
    while not (found := is_so()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_POLL_S)
    return found


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _other_model(store: Store) -> str:
    tokenizer = tiny_tokenizer()
    return tiny_stored_model(store, tokenizer, max_seq_len=WINDOW - 1).id
