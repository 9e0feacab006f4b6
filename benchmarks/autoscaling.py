"""How engines come and go with the load, and what clients are told meanwhile.

    python -m benchmarks.autoscaling

The real application with a tiny random model, whose answers are made long so that engines and not
HTTP are what is short. Phases: from no engine at all; one client; a step to 64 clients; ten times
as many requests as can be answered; quiet, until no engine is left. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.dashboard import Dashboard
from benchmarks.chaos.world import SERVED, World, running_world, served_args, wait_for
from jobs.serve_model import serve_model

N_CLIENTS = 64
MAX_REPLICAS = 3
N_SLOTS = 8
OVERLOAD = 10
DOWNSCALE_S = 5.0
_TIMEOUT_S = 120.0
_RETRY_S = 1.0


@dataclass(slots=True)
class Load:
    """What clients saw: seconds of each accepted request, and how the others ended."""

    accepted_s: list[float] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        """For the table."""
        return {**self.ended, "p50_s": percentile(self.accepted_s, 0.5),
                "p99_s": percentile(self.accepted_s, 0.99)}  # fmt: skip


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


class Client:
    """Asks for one answer at a time, over a connection of its own each."""

    def __init__(self, world: World, n_tokens: int, load: Load) -> None:
        host, _, port = world.url.removeprefix("http://").partition(":")
        self._address, self._load = (host, int(port)), load
        body = json.dumps(
            {"model": SERVED, "prompt": "Hello", "max_tokens": n_tokens, "temperature": 0}
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            f"Authorization: Bearer {world.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body

    async def ask(self) -> bool:
        """One request; returns whether it was accepted."""
        begun_s = time.perf_counter()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(*self._address)
                writer.write(self._request)
                answer = await reader.read(-1)
                writer.close()
        except (OSError, TimeoutError) as error:
            self._load.ended[repr(error)] += 1
            return False
        status = answer[9:12].decode()
        if status == "200":
            self._load.accepted_s.append(time.perf_counter() - begun_s)
            self._load.ended["accepted"] += 1
            return True
        is_clean = status == "503" and b"retry-after" in answer.lower()
        self._load.ended["told to come back" if is_clean else f"failed {status}"] += 1
        return False

    async def ask_on(self, end_s: float) -> None:
        """One after another; comes back when it is told to."""
        while time.perf_counter() < end_s:
            if not await self.ask():
                await asyncio.sleep(_RETRY_S)


class Engines:
    """How many engines answer, and since when."""

    def __init__(self, world: World) -> None:
        self._dashboard = Dashboard.of(world.info, world.home)
        self.first_s: dict[int, float] = {}

    def count(self) -> int:
        """Now."""
        told = self._dashboard.request("GET", "/api/serve/applications/")
        engine = told["applications"][f"engine-{SERVED}"]["deployments"]["engine"]
        return sum(replica["state"] == "RUNNING" for replica in engine["replicas"])

    async def watch(self) -> None:
        """Note when there were how many for the first time."""
        begun_s = time.perf_counter()
        while True:
            n = await asyncio.to_thread(self.count)
            self.first_s.setdefault(n, round(time.perf_counter() - begun_s, 1))
            await asyncio.sleep(0.3)


async def closed_loop(
    world: World, n_clients: int, seconds: float, n_tokens: int
) -> tuple[Load, dict[int, float]]:
    """So many clients, each with one request at a time."""
    load, engines = Load(), Engines(world)
    watching = asyncio.create_task(engines.watch())
    end_s = time.perf_counter() + seconds
    clients = [Client(world, n_tokens, load) for _ in range(n_clients)]
    await asyncio.gather(*(client.ask_on(end_s) for client in clients))
    watching.cancel()
    return load, engines.first_s


async def open_loop(world: World, per_s: float, seconds: float, n_tokens: int) -> Load:
    """So many requests a second, whatever becomes of them."""
    load = Load()
    client, asked = Client(world, n_tokens, load), []
    begun_s = time.perf_counter()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, begun_s + number / per_s - time.perf_counter()))
        asked.append(asyncio.create_task(client.ask()))
    await asyncio.gather(*asked)
    return load


def measure(world: World, seconds: float, n_tokens: int) -> dict[str, Any]:
    """All phases."""
    engines = Engines(world)
    told: dict[str, Any] = {"engines at rest": _until(engines, lambda n: n == 0)[0]}
    begun_s = time.perf_counter()
    first, _ = asyncio.run(closed_loop(world, 1, 0.1, n_tokens))
    told["first answer from zero_s"] = round(time.perf_counter() - begun_s, 1)
    told["from zero"] = dict(first.ended)
    alone, _ = asyncio.run(closed_loop(world, 1, seconds, n_tokens))
    told["one client"] = alone.told()
    step, first_s = asyncio.run(closed_loop(world, N_CLIENTS, 2 * seconds, n_tokens))
    told[f"{N_CLIENTS} clients"] = step.told() | {"engines since_s": first_s}
    full, _ = asyncio.run(closed_loop(world, N_CLIENTS, seconds, n_tokens))
    capacity = full.ended["accepted"] / seconds
    told["capacity per_s"] = round(capacity, 1)
    over = asyncio.run(open_loop(world, OVERLOAD * capacity, seconds, n_tokens))
    told[f"{OVERLOAD} times that"] = over.told()
    unloaded_s, loaded_s = percentile(alone.accepted_s, 0.99), percentile(over.accepted_s, 0.99)
    told["p99 loaded / unloaded"] = round((loaded_s or 0.0) / (unloaded_s or 1.0), 2)
    n, seconds_to_zero = _until(engines, lambda n: n == 0)
    told["back to"] = {"engines": n, "after_s": seconds_to_zero}
    return told


def _until(engines: Engines, is_so: Callable[[int], bool]) -> tuple[int, float]:
    begun_s = time.perf_counter()
    wait_for(lambda: is_so(engines.count()), 180.0, "engines that end")
    return engines.count(), round(time.perf_counter() - begun_s, 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of a phase")
    parser.add_argument("--tokens", type=int, default=400, help="of an answer")
    options = parser.parse_args()
    args = served_args().model_copy(
        update={"min_replicas": 0, "max_replicas": MAX_REPLICAS, "n_slots": N_SLOTS,
                "max_queued": 1, "upscale_delay_s": 1.0, "downscale_delay_s": DOWNSCALE_S}
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="mulm-scaling-") as folder,
        running_world(Path(folder)) as world,
    ):
        serve_model(world.info, args, home=world.home)
        told = measure(world, options.seconds, options.tokens)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
