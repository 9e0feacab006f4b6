"""The clients of `benchmarks.soak`: what they ask, and what must come.

Every answer that is read to its end is compared with what an engine says to the same request
alone, with the weights that the answer names. Whatever else comes must be what the way of asking
allows: an error that is an event of a stream is never that.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from benchmarks.serving_app import KEY
from benchmarks.soak_app import NAME
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.batch import LanguageModel

N_ORDERS = 60
_PATH = "/v1/completions"
_DEEP = '{"a":' * 20_000
_PROMPT = {"model": NAME, "prompt": [70, 71, 72], "max_tokens": 8}

HOSTILE: tuple[tuple[bytes | dict[str, Any], int], ...] = (
    (b"", 400),
    (b"\xff\xfe\x00", 400),
    (_DEEP.encode(), 413),
    (b"[1, 2", 400),
    (_PROMPT | {"model": "nobody's"}, 404),
    (_PROMPT | {"prompt": [10**9]}, 400),
    (_PROMPT | {"prompt": [70] * 5000}, 400),
    (_PROMPT | {"prompt": []}, 400),
    (_PROMPT | {"max_tokens": -1}, 400),
    (_PROMPT | {"max_tokens": 10**12}, 400),
    (_PROMPT | {"n": 10**6}, 400),
    (_PROMPT | {"temperature": 1e300}, 400),
    (_PROMPT | {"logit_bias": {"70": 1e300}}, 400),
    (_PROMPT | {"stop": ["x" * 100_000] * 100}, 413),
    (_PROMPT | {"stream": "perhaps"}, 400),
)
"""Bodies that nobody may be answered to, and the status that says so."""

_POST = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n"
TORN = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET",
    _POST + b"content-length: 1000000\r\n\r\n{",
    _POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff0\r\n",
)
"""What is sent before a connection is torn."""


class Life:
    """What was asked, what must come, and what was seen.

    Args:
        models: All that the alias may point to, by name.
        tokenizer: Theirs.
    """

    def __init__(self, models: dict[str, LanguageModel], tokenizer: Tokenizer) -> None:
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
        self.wrong: Counter[str] = Counter()

    def compare(self, number: int, fingerprint: str, texts: list[str]) -> None:
        """An answer that was read to its end."""
        self.seen["read"] += 1
        if texts != self.expected.get(fingerprint, [None] * N_ORDERS)[number]:
            self.wrong[f"order {number} of {fingerprint}"] += 1

    def is_refused(self, reply: httpx.Response) -> bool:
        """Whether a client is told to come back; any other error is wrong."""
        if reply.status_code == 503 and "retry-after" in reply.headers:
            self.seen["told to come back"] += 1
            return True
        if reply.status_code != 200:
            self.wrong[f"status {reply.status_code}"] += 1
            return True
        return False

    def take(self, line: str) -> dict[str, Any] | None:
        """The event in a line, where there is one."""
        if not line.startswith("data: {"):
            return None
        event: dict[str, Any] = json.loads(line.removeprefix("data: "))
        if "error" in event:
            self.wrong[f"an event: {event['error']}"] += 1
            return None
        return event


async def be_client(life: Life, port: int, number: int, until: Callable[[], bool]) -> None:
    """Ask, in one of the ways in which people do, again and again."""
    draw = random.Random(number)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120.0, trust_env=False
    ) as client:
        while not until():
            way = draw.choice(WAYS)
            try:
                await way(life, client, draw)
            except (httpx.HTTPError, OSError, ValueError) as error:
                life.wrong[f"{way.__name__}: {error!r}"] += 1
            await asyncio.sleep(draw.expovariate(10.0))


async def whole(life: Life, client: httpx.AsyncClient, draw: random.Random) -> None:
    """Read an answer at once."""
    number, body = _order(life, draw)
    reply = await client.post(_PATH, json=body)
    if not life.is_refused(reply):
        told = reply.json()
        life.compare(number, told["system_fingerprint"], [c["text"] for c in told["choices"]])


async def stream(life: Life, client: httpx.AsyncClient, draw: random.Random) -> None:
    """Read an answer as it comes."""
    number, body = _order(life, draw)
    texts, fingerprint, has_ended = [""] * body["n"], "", False
    async with client.stream("POST", _PATH, json=body | {"stream": True}) as reply:
        if life.is_refused(reply):
            return
        async for line in reply.aiter_lines():
            has_ended = has_ended or line == "data: [DONE]"
            if (event := life.take(line)) is not None:
                fingerprint = event["system_fingerprint"]
                for choice in event["choices"]:
                    texts[choice["index"]] += choice["text"]
    if has_ended:
        life.compare(number, fingerprint, texts)
    else:
        life.wrong[f"order {number} of {fingerprint} ended without its mark"] += 1


async def leave(life: Life, client: httpx.AsyncClient, draw: random.Random) -> None:
    """Go in the middle of an answer."""
    life.seen["left"] += 1
    _, body = _order(life, draw)
    n_lines = draw.randrange(5)
    async with client.stream("POST", _PATH, json=body | {"stream": True}) as reply:
        if life.is_refused(reply):
            return
        async for line in reply.aiter_lines():
            life.take(line)
            n_lines -= 1
            if n_lines <= 0:
                return


async def give_up(life: Life, client: httpx.AsyncClient, draw: random.Random) -> None:
    """Wait no longer than so."""
    life.seen["gave up"] += 1
    _, body = _order(life, draw)
    try:
        reply = await client.post(_PATH, json=body, timeout=draw.random() * 0.05 + 0.001)
    except httpx.TimeoutException:
        return
    life.is_refused(reply)


async def be_hostile(life: Life, client: httpx.AsyncClient, draw: random.Random) -> None:
    """Ask for what cannot be."""
    life.seen["hostile"] += 1
    body, status = draw.choice(HOSTILE)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    reply = await client.post(_PATH, content=content, headers=headers)
    if reply.status_code != status or "error" not in reply.json():
        life.wrong[f"status {reply.status_code} for the hostile {content[:60]!r}"] += 1


async def tear(life: Life, client: httpx.AsyncClient, draw: random.Random) -> None:
    """Say half a request, or ask for a stream and read nothing of it; then reset the connection."""
    life.seen["torn"] += 1
    body = json.dumps(life.orders[0] | {"model": NAME, "stream": True}).encode()
    asked = (
        f"POST {_PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
    _, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    writer.write(draw.choice((*TORN, asked, asked)))
    await asyncio.sleep(draw.random() * 0.2)
    at_once = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.close()


Way = Callable[[Life, httpx.AsyncClient, random.Random], Awaitable[None]]
WAYS: tuple[Way, ...] = (whole, whole, stream, stream, stream, leave, give_up, be_hostile, tear)


def _order(life: Life, draw: random.Random) -> tuple[int, dict[str, Any]]:
    number = draw.randrange(N_ORDERS)
    return number, {"model": NAME, **life.orders[number]}


def _alone(model: LanguageModel, order: dict[str, Any], tokenizer: Tokenizer) -> list[str]:
    sampling = SamplingParams(
        max_tokens=order["max_tokens"], temperature=order["temperature"], seed=order["seed"],
        stop_token_ids=tokenizer.text_stop_ids,
    )  # fmt: skip
    request = GenerateRequest("a", tuple(order["prompt"]), sampling, n=order["n"])
    choices = Engine(model, 2, tokenizer=tokenizer).generate_all([request])["a"]
    return [tokenizer.decode(choice.token_ids) for choice in choices]
