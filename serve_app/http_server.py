"""The application on a port of its own, in the ingress's process.

Made by the ingress host. Serve's own proxy is another process through which each event of a stream
passes, at a cost that exceeds the engine's; here they go from the application to the client.
Invariants: it listens when `start` returns; `stop` lets running answers end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from mulm.errors import NotRunningError
from serve_app.http_connection import HttpConnection

MAX_CONNECTIONS = 2000
"""At the same time; beyond it clients are told 503 at once."""

_BACKLOG = 1024
_POLL_S = 0.01


class HttpServer:
    """Serves an ASGI application.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; a replica that takes over may listen beside one that still drains.
        drain_s: How long answers that run at `stop` may take.
        tls: The certificate with its chain and its key (PEM); without them it speaks plain HTTP.
    """

    def __init__(
        self, app: Any, host: str, port: int, drain_s: float, tls: tuple[Path, Path] | None = None
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            http=HttpConnection,
            ws="none",
            ssl_certfile=None if tls is None else tls[0],
            ssl_keyfile=None if tls is None else tls[1],
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(drain_s) + 1,
        )
        self._server = _Server(config)
        self._host, self._port = host, port
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            NotRunningError: somebody else has the port.
        """
        listening = _listen(self._host, self._port)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(_POLL_S)
        self.check_health()

    def check_health(self) -> None:
        """Raise NotRunningError unless it listens."""
        if self._serving is None or self._serving.done():
            raise NotRunningError("the HTTP server has ended")

    async def stop(self) -> None:
        """Take no new connections, and return when the running answers have ended."""
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving


class _Server(uvicorn.Server):
    """Leaves the process's signals to whoever the process belongs to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise NotRunningError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listening
