"""A client that listens to an event stream over whatever befalls the server.

Run by the cases beside a fault. Invariant: it begins again behind the last event that it has heard
(`Last-Event-ID`), and knows nothing of the stream but that.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import httpx

from benchmarks.chaos.world import World, wait_for

_QUIET_S = 1.0
"""After that much silence it hangs up by itself, so that it comes back often."""
_PAUSE_S = 0.1


class Listener:
    """Hears `/api/v1/events`, or the events of one run, from a number on.

    Args:
        world: What is listened to.
        path: Of the stream.
        after: The number of the last event that it does not want.
    """

    def __init__(self, world: World, path: str = "/api/v1/events", after: int = 0) -> None:
        self._world, self._path, self._after = world, path, after
        self.heard: list[int] = []
        self.n_connections = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen_on, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(30.0)

    def otherwise(self, told: Sequence[int], timeout_s: float) -> list[str]:
        """What is wrong with what it has heard, if all of that was told."""
        last = told[-1] if told else self._after
        try:
            wait_for(lambda: self._newest() >= last, timeout_s, f"event {last}")
        except TimeoutError as error:
            return [str(error)]
        heard = [seq for seq in self.heard if seq <= last]
        if heard == list(told):
            return []
        missing, twice = sorted(set(told) - set(heard)), len(heard) - len(set(heard))
        return [f"{self._path}: not heard {missing[:9]}, heard twice {twice}, or out of order"]

    def _newest(self) -> int:
        return self.heard[-1] if self.heard else self._after

    def _listen_on(self) -> None:
        while not self._is_over.is_set():
            headers = {
                "Authorization": f"Bearer {self._world.key}",
                "Accept": "text/event-stream",
                "Last-Event-ID": str(self._newest()),
            }
            try:
                with httpx.stream(
                    "GET", self._world.url + self._path, headers=headers, timeout=_QUIET_S,
                    trust_env=False,
                ) as reply:  # fmt: skip
                    self.n_connections += reply.is_success
                    self._hear(reply)
            except httpx.TransportError:
                pass  # it comes back in a moment
            self._is_over.wait(_PAUSE_S)

    def _hear(self, reply: httpx.Response) -> None:
        for line in reply.iter_lines():
            if line.startswith("data: ") and "seq" in (event := json.loads(line[6:])):
                self.heard.append(event["seq"])
            if self._is_over.is_set():
                return
