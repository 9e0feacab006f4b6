"""The aggregator of a run on islands, as an actor on the head.

Started by `jobs.train_islands`, one for each run, and gone with its driver. Invariants: it is
always at the same address, so that islands find it again after its death; the secret that islands
need is in no log; it keeps its state under the run's folder.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from actors.placement import on_this_machine
from actors.port_plan import server_port
from actors.remote_answer import answer
from mulm.settings import Settings
from mulm.train.sync.aggregator import RoundPlan
from mulm.train.sync.outer_host import OuterHost

_TIMEOUT_S = 60.0
_CLOSE_S = 15.0
"""With the islands' last steps before it, within the minute that Ray gives a stopped job."""


class OuterSyncHost:
    """Plain class behind the actor."""

    def __init__(self, folder: str, plan: RoundPlan, host: str, port: int, secret: str) -> None:
        self._host = OuterHost(Path(folder), plan, host, secret, port)

    def n_done(self) -> int:
        """Rows of the run that are done."""
        return self._host.aggregator.n_done

    def set_round(self, round_s: float) -> None:
        """Islands hear with their next rows how long rounds are to be."""
        self._host.aggregator.round_s = round_s

    def lose(self, island: str) -> None:
        """An island is gone without a word: nobody waits for it, and it leads no more."""
        self._host.aggregator.leave(island, 0)

    def close(self) -> None:
        """Write the last state."""
        self._host.close()


@dataclass(frozen=True, slots=True)
class OuterSync:
    """The typed client: where islands find the aggregator, and how it is told to end."""

    host: str
    port: int
    secret: str = field(repr=False)
    handle: Any

    def n_done(self) -> int:
        """Rows of the run that are done."""
        done: int = answer(self.handle.n_done.remote(), "aggregator", "n_done", _TIMEOUT_S)
        return done

    def set_round(self, round_s: float) -> None:
        """Tell it how long rounds are to be, without waiting for it."""
        self.handle.set_round.remote(round_s)

    def lose(self, island: str) -> None:
        """Tell it that an island is gone, without waiting for it: it may be dead itself."""
        self.handle.lose.remote(island)

    def close(self) -> None:
        """Have it write its last state, and end it."""
        try:
            answer(self.handle.close.remote(), "aggregator", "close", _CLOSE_S)
        finally:
            ray.kill(self.handle)


def start_outer_sync(folder: Path, plan: RoundPlan) -> OuterSync:
    """Start it on this machine; ready on return."""
    host = ray.util.get_node_ip_address()
    port, secret = server_port(host, Settings.from_env()), secrets.token_urlsafe(32)
    handle = (
        ray.remote(OuterSyncHost)
        .options(
            num_cpus=0, max_restarts=-1, max_task_retries=3, max_concurrency=4,
            scheduling_strategy=on_this_machine(),
        )
        .remote(str(folder), plan, host, port, secret)
    )  # fmt: skip
    client = OuterSync(host, port, secret, handle)
    client.n_done()
    return client
