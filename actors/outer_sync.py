"""The aggregator of a run on islands, as an actor on the head.

Started by `jobs.train_islands`, one for each run, and gone with its driver. Invariants: after its
death it begins again at the same port, or at another where somebody took that, which its driver
hears; where it cannot begin again, its driver hears that; the secret that islands need is in no
log; it keeps its state under the run's folder.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

from actors.placement import on_this_machine
from actors.port_plan import server_ports
from actors.remote_answer import answer
from mulm.errors import DeadlineError, JobFailedError
from mulm.settings import Settings
from mulm.train.sync.aggregator import RoundPlan
from mulm.train.sync.outer_host import OuterHost

_TIMEOUT_S = 60.0
_CLOSE_S = 15.0
"""With the islands' last steps before it, within the minute that Ray gives a stopped job."""


class OuterSyncHost:
    """Plain class behind the actor."""

    def __init__(
        self, folder: str, plan: RoundPlan, host: str, ports: Sequence[int], secret: str
    ) -> None:
        self._host = OuterHost(Path(folder), plan, host, secret, ports)

    def port(self) -> int:
        """Where it listens, in this life."""
        return self._host.address[1]

    def set_round(self, round_s: float) -> None:
        """Islands hear with their next rows how long rounds are to be."""
        self._host.aggregator.round_s = round_s

    def lose(self, island: str) -> None:
        """An island is gone without a word: nobody waits for it, and it leads no more."""
        self._host.aggregator.leave(island, 0)

    def close(self) -> None:
        """Write the last state."""
        self._host.close()


@dataclass(slots=True)
class OuterSync:
    """The typed client: where islands find the aggregator, and how it is told to end."""

    host: str
    port: int
    secret: str = field(repr=False)
    handle: Any
    _asked: Any = None
    """An answer of it that has not come yet."""

    def look(self) -> bool:
        """Whether it is at another port than at the last look; does not wait for an answer.

        Raises:
            JobFailedError: it has died, and cannot begin again.
        """
        if self._asked is None:
            self._asked = self.handle.port.remote()
        if not ray.wait([self._asked], timeout=0)[0]:
            return False
        asked, self._asked, before = self._asked, None, self.port
        try:
            self.port = ray.get(asked)
        except ActorUnavailableError:  # it is beginning again
            return False
        except RayActorError as error:
            raise _gone(error) from None
        return self.port != before

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
    """Start it on this machine; ready on return.

    Raises:
        JobFailedError: it cannot begin.
        DeadlineError: it did not within a minute.
    """
    host = ray.util.get_node_ip_address()
    ports, secret = server_ports(host, Settings.from_env()), secrets.token_urlsafe(32)
    handle = (
        ray.remote(OuterSyncHost)
        .options(
            num_cpus=0, max_restarts=-1, max_task_retries=3, max_concurrency=4,
            scheduling_strategy=on_this_machine(),
        )
        .remote(str(folder), plan, host, ports, secret)
    )  # fmt: skip
    return OuterSync(host, _begun(handle.port.remote()), secret, handle)


def _begun(asked: Any) -> int:
    try:
        port: int = ray.get(asked, timeout=_TIMEOUT_S)
    except GetTimeoutError:
        raise DeadlineError(f"the aggregator did not begin within {_TIMEOUT_S:.0f} s") from None
    except RayActorError as error:
        raise _gone(error) from None
    return port


def _gone(error: RayActorError) -> JobFailedError:
    """In its last line Ray says why: the error that its constructor met, if it did."""
    why = str(error).strip().splitlines()[-1].strip()
    return JobFailedError(
        f"the aggregator of the islands has died and cannot begin again: {why}",
        hint="what it says is to be mended; then the same command goes on from what was kept",
    )
