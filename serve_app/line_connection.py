"""A connection on which lines travel, both ways: what ingresses and engines say to each other.

Held by `serve_app.engine_link` and `serve_app.ingress_links`. Invariants: what is sent in one turn
of the event loop is written at once, however many requests it belongs to; what is kept of the other
side, and for it, is bounded; one that vanished without a word is noticed within 15 s.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

_log = logging.getLogger(__name__)

MAX_LINE_BYTES = 64 << 20
"""Log-probabilities of a long prompt, with alternatives."""

_MAX_UNREAD_BYTES = 2 * MAX_LINE_BYTES
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}


class LineConnection(asyncio.Protocol):
    """One end.

    Args:
        on_line: Gets each line, without its end; a ValueError of it ends the connection.
        on_lost: Called once, when there is no connection any more.
        max_line_bytes: A longer line ends the connection; may be changed.
    """

    def __init__(
        self,
        on_line: Callable[[bytes], None],
        on_lost: Callable[[], None],
        max_line_bytes: int = MAX_LINE_BYTES,
    ) -> None:
        self.max_line_bytes = max_line_bytes
        self._on_line, self._on_lost = on_line, on_lost
        self._transport: asyncio.Transport | None = None
        self._begun: list[bytes] = []
        self._n_begun_bytes = 0
        self._outgoing: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether something that is sent may arrive."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def n_unread_bytes(self) -> int:
        """What the other side has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, line: bytes) -> None:
        """Send a line, with its end; nobody hears it on a connection that is lost."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(line)

    def close(self) -> None:
        """End it, after what was sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio's hook."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not every system has all
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def data_received(self, data: bytes) -> None:
        """Asyncio's hook."""
        self._begun.append(data)
        self._n_begun_bytes += len(data)
        if b"\n" in data:
            *lines, rest = b"".join(self._begun).split(b"\n")
            self._begun, self._n_begun_bytes = [rest], len(rest)
            try:
                for line in lines:
                    if len(line) > self.max_line_bytes:
                        raise ValueError(f"a line of {len(line)} bytes")
                    if self.is_open:
                        self._on_line(line)
            except ValueError as error:
                self._give_up(repr(error))
        if self._n_begun_bytes > self.max_line_bytes:
            self._give_up(f"a line of more than {self.max_line_bytes} bytes")

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's hook."""
        if exc is not None:
            _log.warning("a connection between ingress and engine ended error=%r", exc)
        self._on_lost()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is None or self._transport.is_closing() or not outgoing:
            return
        self._transport.write(b"".join(outgoing))
        if self.n_unread_bytes > _MAX_UNREAD_BYTES:
            self._give_up(f"{self.n_unread_bytes} bytes are not read")

    def _give_up(self, why: str) -> None:
        _log.warning("a connection between ingress and engine is given up reason=%s", why)
        if self._transport is not None:
            self._transport.abort()
