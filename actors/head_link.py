"""How fast the line between a machine that joins and the head is: `python -m actors.head_link`.

Run by `jobs.membership` before a machine joins, in a process of its own; prints the labels that its
node carries. Bytes are left in the head's key-value store and taken again, so that no further port
is needed. Invariants: some hundred milliseconds each way on any line that can be used; nothing
stays in the store.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

RTT_LABEL, UP_LABEL, DOWN_LABEL = "mulm.rtt_ms", "mulm.up_mbit", "mulm.down_mbit"

_ENOUGH_S = 0.25
"""A message that took so long says enough."""
_FIRST_BYTES, _LARGEST_BYTES, _GROWTH = 64 << 10, 16 << 20, 4
_ECHOES = 5
_TIMEOUT_S = 20.0
_NAMESPACE = b"mulm"


class Shelf(Protocol):
    """Something at the other end that keeps bytes."""

    def put(self, content: bytes) -> None:
        """Leave them there."""

    def get(self) -> bytes:
        """Take them from there."""


@dataclass(frozen=True, slots=True)
class HeadLink:
    """Of one machine's line to the head."""

    rtt_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float

    def labels(self) -> dict[str, str]:
        """As labels of a node."""
        return {
            RTT_LABEL: f"{self.rtt_s * 1e3:.1f}",
            UP_LABEL: _mbit(self.up_bytes_per_s),
            DOWN_LABEL: _mbit(self.down_bytes_per_s),
        }


def measured(
    shelf: Shelf,
    clock: Callable[[], float] = time.perf_counter,
    noise: Callable[[int], bytes] = os.urandom,
) -> HeadLink:
    """Measure, with ever larger messages until one takes long enough."""
    shelf.put(b"0")
    rtt_s = min(_seconds(shelf.get, clock) for _ in range(_ECHOES))
    size_bytes = _FIRST_BYTES
    while True:
        content = noise(size_bytes)  # a VPN may squeeze what repeats itself

        def leave(content: bytes = content) -> None:
            shelf.put(content)

        up_s, down_s = _seconds(leave, clock), _seconds(shelf.get, clock)
        if size_bytes >= _LARGEST_BYTES or max(up_s, down_s) >= _ENOUGH_S:
            break
        size_bytes *= _GROWTH
    return HeadLink(rtt_s, *(size_bytes / max(s - rtt_s, s / 10) for s in (up_s, down_s)))


def _mbit(bytes_per_s: float) -> str:
    mbit = bytes_per_s * 8 / 1e6
    return f"{mbit:.0f}" if mbit >= 10 else f"{mbit:.1f}"


def _seconds(act: Callable[[], object], clock: Callable[[], float]) -> float:
    begun_s = clock()
    act()
    return clock() - begun_s


class _HeadShelf:
    """The head's key-value store, under a key of our own."""

    def __init__(self, gcs_address: str) -> None:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        self._client = GcsClient(address=gcs_address)
        self._key = f"line-{secrets.token_hex(8)}".encode()

    def put(self, content: bytes) -> None:
        self._client.internal_kv_put(
            self._key, content, True, namespace=_NAMESPACE, timeout=_TIMEOUT_S
        )

    def get(self) -> bytes:
        content: bytes | None = self._client.internal_kv_get(
            self._key, namespace=_NAMESPACE, timeout=_TIMEOUT_S
        )
        assert content is not None
        return content

    def remove(self) -> None:
        self._client.internal_kv_del(self._key, False, namespace=_NAMESPACE, timeout=_TIMEOUT_S)


def main(gcs_address: str) -> int:
    """Print the labels as JSON."""
    shelf = _HeadShelf(gcs_address)
    try:
        print(json.dumps(measured(shelf).labels()))
    finally:
        shelf.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
