"""Minutes of random life through HTTP: is any answer lost, mixed up, or a page kept?

    python -m benchmarks.soak --minutes 10

The application in one process, over two random tiny models that take turns while requests run.
Clients come at random, read whole answers or streams, leave in the middle, or give up before the
first token. Every answer that is read to its end is compared with what the engine says to the same
request alone, with the weights that the answer names. In the end all pages must be free. Prints one
JSON object; exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving_app import KEY, NAME, Server, make_service_app, served
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.config import MicroLMConfig
from mulm.native.model import NativeModel
from mulm.testing import TINY, tiny_model, tiny_tokenizer
from serve_app.engine_host import EngineHost
from serve_app.opened_model import OpenedModel
from serve_app.service import Fixed
from serve_app.settings import AppArgs

WINDOW, N_ORDERS, N_CLIENTS, SWAP_EVERY_S = 512, 60, 24, 15.0
MODELS = ("one", "two")


class Life:
    """What was asked, what must come, and what was seen."""

    def __init__(self, models: dict[str, NativeModel], tokenizer: Tokenizer) -> None:
        draw = random.Random(1)
        self.orders = [
            {
                "prompt": [draw.randrange(64, 320) for _ in range(draw.choice((3, 20, 60, 200)))],
                "max_tokens": draw.choice((1, 8, 40, 120)), "seed": n,
                "temperature": draw.choice((0.0, 0.7, 1.0)), "n": draw.choice((1, 1, 2)),
            }
            for n in range(N_ORDERS)
        ]  # fmt: skip
        self.expected = {
            name: [_alone(model, order, tokenizer) for order in self.orders]
            for name, model in models.items()
        }
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    def compare(self, number: int, fingerprint: str, texts: list[str]) -> None:
        """An answer that was read to its end."""
        self.seen["read"] += 1
        if texts != self.expected[fingerprint][number]:
            self.wrong.append(f"order {number} of {fingerprint}")


def main() -> None:
    """Live, then look."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = run(Path(folder), options.minutes * 60)
    print(json.dumps(told))
    sys.exit(bool(told["wrong"] or told["failed"] or not told["all pages free"]))


def run(folder: Path, seconds: float) -> dict[str, Any]:
    """The numbers of one life."""
    tokenizer = tiny_tokenizer()
    config = MicroLMConfig.model_validate(
        TINY.model_dump() | {"vocab_size": tokenizer.vocab_size, "max_seq_len": WINDOW}
    )
    models = {
        name: NativeModel(tiny_model(config=config, seed=seed), folder, 1)
        for seed, name in enumerate(MODELS)
    }
    life = Life(models, tokenizer)
    host, service, server = start(models, tokenizer)
    process = psutil.Process()
    asyncio.run(live(life, server, host, service, tokenizer, 10.0))  # warm
    before = process.memory_info().rss
    asyncio.run(live(life, server, host, service, tokenizer, seconds))
    engines = [thread.stats() for thread in host._threads.values()]
    server.call(host.stop())
    server.stop()
    return {
        **life.seen, "wrong": life.wrong, "failed": life.seen["failed"],
        "all pages free": all(s.n_free_pages == s.n_pages for s in engines),
        "preemptions": sum(s.n_preemptions for s in engines),
        "grown MB": round((process.memory_info().rss - before) / 1e6, 1),
    }  # fmt: skip


def start(models: dict[str, NativeModel], tokenizer: Tokenizer) -> tuple[EngineHost, Any, Server]:
    """The application; few pages, so that sequences are preempted."""
    found: list[Any] = []

    async def make() -> Any:
        host = EngineHost(
            lambda args: OpenedModel(args.ref.name, models[args.ref.name], tokenizer=tokenizer),
            keep_previous_s=3600.0,
        )
        args = AppArgs(model="one@1", n_slots=24, n_guesses=3, kv_cache_bytes=1 << 20)
        await host.reconfigure(args.model_dump(mode="json"))
        service, app = make_service_app(served(host, tokenizer, "one", WINDOW))
        found[:] = [host, service]
        return app

    server = Server(make)
    return found[0], found[1], server


async def live(
    life: Life, server: Server, host: EngineHost, service: Any, tokenizer: Tokenizer, seconds: float
) -> None:
    """Clients come and go, weights take turns."""
    until_s = time.monotonic() + seconds
    url, headers = f"http://127.0.0.1:{server.port}", {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=120.0, trust_env=False
    ) as client:
        clients = [
            asyncio.create_task(be_client(life, client, random.Random(n), until_s))
            for n in range(N_CLIENTS)
        ]
        turn = 0
        while time.monotonic() < until_s:
            await asyncio.sleep(min(SWAP_EVERY_S, max(0.0, until_s - time.monotonic())))
            turn += 1
            name = MODELS[turn % 2]
            await asyncio.to_thread(server.call, take_turn(host, service, tokenizer, name))
            life.seen["swaps"] += 1
        await asyncio.gather(*clients)
    await asyncio.to_thread(server.call, until_idle(host))


async def take_turn(host: EngineHost, service: Any, tokenizer: Tokenizer, name: str) -> None:
    """The other weights serve from now on."""
    args = AppArgs(model=f"{name}@1", n_slots=24, n_guesses=3, kv_cache_bytes=1 << 20)
    await host.reconfigure(args.model_dump(mode="json"))
    service.deployments[NAME] = Fixed(served(host, tokenizer, name, WINDOW))


async def until_idle(host: EngineHost) -> None:
    """Cancels are on their way for a moment."""
    for _ in range(600):
        if not (await host.load())["n_unfinished"]:
            return
        await asyncio.sleep(0.1)


async def be_client(
    life: Life, client: httpx.AsyncClient, draw: random.Random, until_s: float
) -> None:
    """Ask, in one of the ways in which people do."""
    ways = (whole, stream, stream, leave, give_up)
    while time.monotonic() < until_s:
        number = draw.randrange(N_ORDERS)
        body = {"model": NAME, **life.orders[number]}
        try:
            await draw.choice(ways)(life, client, number, body, draw)
        except httpx.HTTPError as error:
            life.seen["failed"] += 1
            life.wrong.append(repr(error))
        await asyncio.sleep(draw.expovariate(10.0))


async def whole(
    life: Life, client: httpx.AsyncClient, number: int, body: Any, _draw: random.Random
) -> None:
    """Read an answer at once."""
    reply = await client.post("/v1/completions", json=body)
    if reply.status_code == 503:
        life.seen["told to come back"] += 1
        return
    told = reply.raise_for_status().json()
    life.compare(number, told["system_fingerprint"], [c["text"] for c in told["choices"]])


async def stream(
    life: Life, client: httpx.AsyncClient, number: int, body: Any, _draw: random.Random
) -> None:
    """Read an answer as it comes."""
    texts, fingerprint = [""] * body["n"], ""
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as reply:
        if reply.status_code == 503:
            life.seen["told to come back"] += 1
            return
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                fingerprint = event["system_fingerprint"]
                for choice in event["choices"]:
                    texts[choice["index"]] += choice["text"]
    life.compare(number, fingerprint, texts)


async def leave(
    life: Life, client: httpx.AsyncClient, _number: int, body: Any, draw: random.Random
) -> None:
    """Go in the middle of an answer."""
    life.seen["left"] += 1
    n_lines = draw.randrange(5)
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as reply:
        async for _line in reply.aiter_lines():
            n_lines -= 1
            if n_lines <= 0:
                return


async def give_up(
    life: Life, client: httpx.AsyncClient, _number: int, body: Any, draw: random.Random
) -> None:
    """Wait no longer than so."""
    life.seen["gave up"] += 1
    try:
        await client.post("/v1/completions", json=body, timeout=draw.random() * 0.05 + 0.001)
    except httpx.TimeoutException:
        return


def _alone(model: NativeModel, order: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    sampling = SamplingParams(
        max_tokens=order["max_tokens"], temperature=order["temperature"], seed=order["seed"],
        stop_token_ids=tokenizer.text_stop_ids,
    )  # fmt: skip
    request = GenerateRequest("a", tuple(order["prompt"]), sampling, n=order["n"])
    choices = Engine(model, 2, tokenizer=tokenizer).generate_all([request])["a"]
    return [tokenizer.decode(choice.token_ids) for choice in choices]


if __name__ == "__main__":
    main()
