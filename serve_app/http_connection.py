"""One connection of a client, before anybody knows who it is.

Made by `serve_app.http_server` for each connection. uvicorn's own parser keeps whatever head a
client sends for as long as it likes; here a head has a size and a time. Invariants: a connection
that says nothing, or does not come to the end of its head, is closed, and so is one whose other end
takes nothing of what was sent; what is no HTTP is told so by the error object.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve_app.errors import refusal_body

MAX_HEAD_BYTES = 64 << 10
HEAD_TIMEOUT_S = 20.0
UNREAD_TIMEOUT_S = 60.0

_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class HttpConnection(HttpToolsProtocol):
    """uvicorn's connection with bounds for the head of each request."""

    head_timeout_s = HEAD_TIMEOUT_S
    unread_timeout_s = UNREAD_TIMEOUT_S
    _n_head_bytes = 0
    _is_head_too_large = False
    _head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The first head is due."""
        super().connection_made(transport)
        _limit_unread(transport.get_extra_info("socket"), self.unread_timeout_s)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that has not ended."""
        super().data_received(data)
        if self._head_deadline is not None:
            self._n_head_bytes += len(data)
            if self._n_head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """Uvicorn's hook: a head begins, and is due."""
        super().on_message_begin()
        if self._head_deadline is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """Uvicorn's hook; a head that came at once has a size too."""
        self._head_is_there()
        lines = (len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if len(self.url) + sum(lines) > MAX_HEAD_BYTES:
            self._is_head_too_large = True
            raise ValueError("the head is too large")  # ends the parser
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's hook for what is no HTTP, and for what ended the parser."""
        if self._is_head_too_large:
            self._refuse_head()
        else:
            self._refuse(400, msg)

    def _expect_head(self) -> None:
        self._n_head_bytes = 0
        self._head_deadline = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _head_is_there(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _give_up(self) -> None:
        if self._n_head_bytes:
            self._refuse(408, f"no whole head of a request within {self.head_timeout_s:g} s")
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(431, f"the head of a request has more than {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, message: str) -> None:
        self._head_is_there()
        body = json.dumps(refusal_body(message, status)).encode()
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _limit_unread(link: socket.socket, timeout_s: float) -> None:
    """Have the system end a connection whose other end takes nothing for so long.

    It does so behind our own end too, when what is left is still to be sent.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * timeout_s))
