"""Streaming clients in a process of their own, as cheap as can be: one socket, one search a read.

    python benchmarks/http_load.py < plan.json

The plan is one JSON object: host, port, key, path, and requests, each with `at_s` (seconds after
the start) and a `body`. Says for each: the status, when it was sent, when events came (seconds
after the start) and how many tokens its usage counts; and what CPU time this process took, since it
shares the cores with what it measures. Needs the standard library alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
_END = b"data: [DONE]"
_TAIL_BYTES = 4096
TIMEOUT_S = 240.0


@dataclass(slots=True)
class Seen:
    """What one client saw."""

    status: int = 0
    sent_s: float = 0.0
    event_s: list[float] = field(default_factory=list)
    n_tokens: int = 0
    is_whole: bool = False


class Client(asyncio.Protocol):
    """One request on a connection of its own."""

    def __init__(self, request: bytes, begun_s: float) -> None:
        self._request = request
        self._begun_s = begun_s
        self._tail = b""
        self.seen = Seen()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Send at once."""
        self._transport = transport
        self.seen.sent_s = time.perf_counter() - self._begun_s
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note when events come."""
        now_s = time.perf_counter() - self._begun_s
        if not self.seen.status:
            found = _STATUS.match(data)
            self.seen.status = int(found[1]) if found else -1
        if b"data: {" in data:
            self.seen.event_s.append(now_s)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        if _END in self._tail or self.seen.status != 200:
            self._finish()

    def connection_lost(self, _error: Exception | None) -> None:
        """Whatever the reason."""
        self._finish()

    def _finish(self) -> None:
        if self.ended.done():
            return
        counts = _TOKENS.findall(self._tail)
        self.seen.n_tokens = int(counts[-1]) if counts else 0
        self.seen.is_whole = _END in self._tail
        self.ended.set_result(None)
        self._transport.close()


async def run(plan: dict[str, Any]) -> list[Seen]:
    """Carry out a plan."""
    begun_s = time.perf_counter()
    return list(await asyncio.gather(*(_one(plan, item, begun_s) for item in plan["requests"])))


async def _one(plan: dict[str, Any], item: dict[str, Any], begun_s: float) -> Seen:
    body = json.dumps(item["body"]).encode()
    head = (
        f"POST {plan['path']} HTTP/1.1\r\nHost: {plan['host']}\r\n"
        f"Authorization: Bearer {plan['key']}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    await asyncio.sleep(max(0.0, item.get("at_s", 0.0) - (time.perf_counter() - begun_s)))
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(head.encode() + body, begun_s), plan["host"], plan["port"]
    )
    try:
        await asyncio.wait_for(client.ended, plan.get("timeout_s", TIMEOUT_S))
    except TimeoutError:
        client._finish()
    return client.seen


def main() -> None:
    """One plan, one answer."""
    plan = json.load(sys.stdin)
    started_s, cpu_s = time.perf_counter(), time.process_time()
    seen = asyncio.run(run(plan))
    told = {
        "seen": [asdict(one) for one in seen],
        "wall_s": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - cpu_s,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
