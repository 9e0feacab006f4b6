"""Do limits hold over several ingresses? Rates let in, a key revoked, and the owner of limits away.

    python -m benchmarks.limits_cluster [--replicas 1 2 4] [--per-minute 600] [--seconds 30]

For each number of ingress replicas a real cluster, asked over a connection of its own for each
request, so that the kernel spreads them over the replicas. First the minute's worth that may come
at once is used up, then the requests that are let in are counted, at several times the limit. Then
the owner of all limits is stopped for as long again (SIGSTOP), and at last the key is revoked. No
peers: none has limits over several replicas without a database beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from jobs.up import start, stop
from mulm.home import Home
from mulm.settings import Settings
from serve_app.keys import read_first_key

N_CLIENTS = 8
ROUTE = "/api/v1/runs?limit=1"
_TIMEOUT_S = 30.0
_OWNER = "ray::LimiterHost"


@dataclass(slots=True)
class Flood:
    """Requests that come as fast as clients can, and when which status was answered."""

    url: str
    key: str
    answers: list[tuple[float, int]] = field(default_factory=list)
    pause_s: float = 0.05
    """Of each client between two requests."""

    async def pour(self, seconds: float) -> Flood:
        """Ask for so long."""
        end_s = time.monotonic() + seconds
        headers = {"authorization": f"Bearer {self.key}"}
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=limits, timeout=_TIMEOUT_S, trust_env=False
        ) as http:
            await asyncio.gather(*(self._ask(http, end_s) for _ in range(N_CLIENTS)))
        return self

    async def _ask(self, http: httpx.AsyncClient, end_s: float) -> None:
        while time.monotonic() < end_s:
            reply = await http.get(ROUTE)
            self.answers.append((time.monotonic(), reply.status_code))
            await asyncio.sleep(self.pause_s)

    def count(self, status: int) -> int:
        """Answers of a status."""
        return sum(each == status for _, each in self.answers)


def make_key(url: str, first_key: str, per_minute: int) -> tuple[str, str]:
    """The id and the text of a key with a limit."""
    body = {"name": "flood", "scope": "all", "limits": {"requests_per_minute": per_minute}}
    reply = httpx.post(
        f"{url}/api/v1/keys", json=body, headers=bearer(first_key), timeout=_TIMEOUT_S
    )
    reply.raise_for_status()
    return reply.json()["id"], reply.json()["key"]


def bearer(key: str) -> dict[str, str]:
    """The header of a key."""
    return {"authorization": f"Bearer {key}"}


def drain(url: str, key: str, per_minute: int) -> None:
    """Use up what may come at once."""
    flood = Flood(url, key, pause_s=0.0)
    deadline_s = time.monotonic() + 120.0
    while flood.count(200) < per_minute or flood.answers[-1][1] == 200:
        asyncio.run(flood.pour(1.0))
        assert time.monotonic() < deadline_s, flood.count(200)


def rate_let_in(url: str, key: str, seconds: float) -> float:
    """Requests a minute that were let in."""
    begun_s = time.monotonic()
    flood = asyncio.run(Flood(url, key).pour(seconds))
    return flood.count(200) * 60.0 / (time.monotonic() - begun_s)


@contextmanager
def owner_away(home: Home) -> Iterator[None]:
    """While the owner of all limits does not answer."""
    found = [each for each in psutil.process_iter() if _is_owner(each, home)]
    assert found, "nobody owns the limits"
    for each in found:
        each.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for each in found:
            each.send_signal(signal.SIGCONT)


def _is_owner(process: psutil.Process, home: Home) -> bool:
    try:
        is_it = " ".join(process.cmdline()).startswith(_OWNER)
        return is_it and process.environ().get("MULM_HOME") == str(home.root)
    except psutil.Error:  # it has ended meanwhile
        return False


def revoked_after_s(url: str, first_key: str, key_id: str, key: str, watch_s: float = 8.0) -> float:
    """Seconds from the answer to a revocation to the last request that was let in."""

    async def both() -> float:
        flood = Flood(url, key)
        pouring = asyncio.create_task(flood.pour(watch_s))
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as http:
            reply = await http.delete(f"{url}/api/v1/keys/{key_id}", headers=bearer(first_key))
        reply.raise_for_status()
        revoked_s = time.monotonic()
        await pouring
        assert flood.answers[-1][1] == 401, flood.answers[-1]
        valid = [at_s for at_s, status in flood.answers if status != 401]
        return max(0.0, max(valid, default=revoked_s) - revoked_s)

    return asyncio.run(both())


def measure(n_replicas: int, per_minute: int, seconds: float) -> dict[str, float]:
    """All of it with so many ingresses."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        info = start(home, Settings(http_port=0, dashboard_port=0, ingress_replicas=n_replicas))
        try:
            url, first_key = info.api_url, read_first_key(home)
            key_id, key = make_key(url, first_key, per_minute)
            drain(url, key, per_minute)
            let_in = rate_let_in(url, key, seconds)
            with owner_away(home):
                away = rate_let_in(url, key, seconds)
            ended_s = revoked_after_s(url, first_key, key_id, key)
        finally:
            stop(home)
    return {
        "replicas": n_replicas,
        "limit": per_minute,
        "let_in": round(let_in, 1),
        "let_in_owner_away": round(away, 1),
        "revoked_after_s": round(ended_s, 2),
    }


def main() -> None:
    """Print a line of JSON for each number of replicas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--per-minute", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = parser.parse_args()
    for n_replicas in given.replicas:
        found = measure(n_replicas, given.per_minute, given.seconds)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
