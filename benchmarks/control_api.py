"""How fast the control API is, on a real cluster: lists, pages, looks, and events on their way.

    python -m benchmarks.control_api [--runs 1000] [--events 1000] [--streams 500]

The ledger holds as many runs as asked for with as many events each. Each call is made one after
the other over one connection, first beside an idle engine, then beside one that generates all the
time for eight clients. Then as many clients as asked for listen to `/api/v1/events` while an alias
moves: the delay is from the ledger's own time of each move to its arrival at each of them. No
peers: none has such an API.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import torch

from jobs.serve_model import serve_model
from jobs.up import start, stop
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.stored import store_model
from mulm.settings import Settings
from mulm.store import Store
from mulm.testing import tiny_tokenizer
from serve_app.keys import read_first_key
from serve_app.settings import AppArgs

ROOT = "/api/v1"
N_CALLS = 200
N_BUSY = 8
N_MOVES = 40
SHAPE = {
    "d_model": 256, "n_layers": 6, "n_heads": 4, "n_kv_heads": 2, "d_head": 64, "d_ff": 768,
    "max_seq_len": 4096,
}  # fmt: skip


def fill(home: Home, n_runs: int, n_events: int) -> None:
    """A ledger as after years, and a model with an alias."""
    tokenizer = tiny_tokenizer()
    config = MicroLMConfig(vocab_size=tokenizer.vocab_size, **SHAPE)  # type: ignore[arg-type]
    with Ledger(home.ledger) as facts:
        for seed in (1, 2):
            model = MicroLM(config).init_weights(torch.Generator().manual_seed(seed))
            made = store_model(
                Store(home.store), model, tokenizer.to_bytes(), tokenizer.fingerprint,
                config={"seed": seed}, parents={},
            )  # fmt: skip
            facts.publish("model", "measured", made.id)
        facts.set_alias("model", "measured", "live", 1)
        for number in range(n_runs):
            facts.create_run(f"run_{number:06d}", "train", {"name": f"m{number}", "steps": 9})
            facts.set_phase(f"run_{number:06d}", "succeeded", result={"model": f"m{number}@1"})
    data = json.dumps({"step": 1, "loss": 2.5, "tokens_per_s": 1e4, "grad_norm": 0.5})
    rows = (
        (f"run_{number:06d}", seq, float(seq), "metric", data)
        for number in range(n_runs)
        for seq in range(2, n_events + 2)
    )
    with closing(sqlite3.connect(home.ledger)) as database, database:
        database.executemany("INSERT INTO events VALUES (?,?,?,?,?)", rows)


@contextmanager
def served(n_runs: int, n_events: int) -> Iterator[tuple[str, str]]:
    """The URL and the key of an application with such a ledger."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(Path(temporary) / "home").create()
        fill(home, n_runs, n_events)
        info = start(home, Settings(http_port=0, dashboard_port=0, n_cpus=2))
        try:
            serve_model(info, AppArgs(model="measured@1", served_name="busy"), home=home)
            yield info.api_url, read_first_key(home)
        finally:
            stop(home, jobs_grace_s=5.0)


def calls(n_runs: int, n_events: int) -> dict[str, str]:
    """What is asked, by what it is."""
    middle, run = f"run_{n_runs // 2:06d}", f"run_{n_runs // 3:06d}"
    return {
        "20 runs": "/runs?limit=20",
        "100 runs from the middle": f"/runs?limit=100&after={middle}",
        "a run": f"/runs/{run}",
        "100 of its events": f"/runs/{run}/events?limit=100&after={n_events // 2}",
        "its curve, every 100th step": f"/runs/{run}/metrics?every=100",
        "100 happenings": f"/events?limit=100&after={n_runs}",
        "models": "/models",
        "deployments": "/deployments",
        "keys": "/keys",
    }


def measure(http: httpx.Client, asked: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Median and 95th percentile of each call, in ms."""
    found = {}
    for name, path in asked.items():
        times = []
        for _ in range(N_CALLS):
            begun_s = time.perf_counter()
            http.get(f"{ROOT}{path}").raise_for_status()
            times.append(1e3 * (time.perf_counter() - begun_s))
        found[name] = (statistics.median(times), sorted(times)[int(0.95 * N_CALLS)])
    return found


@contextmanager
def busy(url: str, headers: dict[str, str]) -> Iterator[None]:
    """Eight clients for whom the engine generates all the time."""
    is_over = threading.Event()

    def press() -> None:
        body = {"model": "busy", "prompt": "the", "max_tokens": 256, "ignore_eos": True}
        with httpx.Client(base_url=url, headers=headers, timeout=120.0, trust_env=False) as http:
            while not is_over.is_set():
                http.post("/v1/completions", json=body).raise_for_status()

    pressing = [threading.Thread(target=press) for _ in range(N_BUSY)]
    for thread in pressing:
        thread.start()
    try:
        time.sleep(2.0)
        yield
    finally:
        is_over.set()
        for thread in pressing:
            thread.join()


async def listen(url: str, headers: dict[str, str], n_streams: int) -> list[float]:
    """The delays of all events at all listeners, in ms; each must hear each move once."""
    limits = httpx.Limits(max_connections=None)
    delays: list[float] = []
    n_ready = 0
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=120.0, trust_env=False, limits=limits
    ) as http:

        async def hear() -> None:
            nonlocal n_ready
            accept = {"accept": "text/event-stream"}
            seen: list[int] = []
            async with http.stream("GET", f"{ROOT}/events", headers=accept) as stream:
                stream.raise_for_status()
                n_ready += 1
                async for line in stream.aiter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        delays.append(1e3 * (time.time() - event["created_at"]))
                        seen.append(event["seq"])
                    if len(seen) == N_MOVES:
                        break
            assert seen == list(range(seen[0], seen[0] + N_MOVES)), "a gap, or twice the same"

        hearing = [asyncio.create_task(hear()) for _ in range(n_streams)]
        while n_ready < n_streams:
            await asyncio.sleep(0.05)
        for number in range(N_MOVES):
            path = f"{ROOT}/models/measured/aliases/live"
            (await http.put(path, json={"version": 1 + number % 2})).raise_for_status()
            await asyncio.sleep(0.25)
        await asyncio.gather(*hearing)
    return delays


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=500)
    options = parser.parse_args()
    with served(options.runs, options.events) as (url, key):
        headers = {"Authorization": f"Bearer {key}"}
        asked = calls(options.runs, options.events)
        with httpx.Client(base_url=url, headers=headers, timeout=60.0, trust_env=False) as http:
            idle = measure(http, asked)
            with busy(url, headers):
                pressed = measure(http, asked)
        print("| call, ms | idle p50 | idle p95 | busy p50 | busy p95 |\n|---|---|---|---|---|")
        for name in asked:
            numbers = (*idle[name], *pressed[name])
            print(f"| {name} | {' | '.join(f'{number:.1f}' for number in numbers)} |")
        for n_streams in (1, options.streams):
            delays = sorted(asyncio.run(listen(url, headers, n_streams)))
            p50, p95 = statistics.median(delays), delays[int(0.95 * len(delays))]
            print(f"{n_streams} listeners: p50 {p50:.0f} ms, p95 {p95:.0f}, most {delays[-1]:.0f}")


if __name__ == "__main__":
    main()
