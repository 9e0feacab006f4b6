"""The connections of one ingress to all engines, which they make when they are greeted.

Held by the ingress host. A call over a Serve handle costs both processes milliseconds and each item
that it streams half of one, while an engine on two cores makes a thousand a second. So requests and
tokens travel over plain connections; Serve starts and ends engines, and is the way where there is
no connection. Invariant: which application an engine belongs to is known by the greeting.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.engine_line import EngineLine
from serve_app.engine_link import EngineLink
from serve_app.engine_report import EngineReport
from serve_app.line_connection import LineConnection


@dataclass(frozen=True, slots=True)
class IngressAddress:
    """Where the engines of an application find an ingress."""

    host: str
    port: int
    secret: str
    application: str


class EngineLinks:
    """All engines that are connected.

    Args:
        host: The address of this machine that engines reach.
        choose_port: Names the port to listen on, right before that; 0 is any free one.
    """

    def __init__(self, host: str, choose_port: Callable[[], int] = lambda: 0) -> None:
        self._host, self._choose_port = host, choose_port
        self._secret = secrets.token_hex(16)
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self._links: set[EngineLink] = set()
        self._lines: dict[str, EngineLine] = {}
        self._forgotten: set[str] = set()

    def reports(self) -> list[EngineReport]:
        """The newest of each engine that is connected."""
        return [report for link in self._links for report in link.reports]

    def line(self, application: str) -> EngineLine:
        """Where requests for an application's engines wait."""
        self._forgotten.discard(application)
        return self._lines.setdefault(application, EngineLine())

    async def address(self, application: str) -> IngressAddress:
        """Where its engines shall connect; from the first call on it listens."""
        async with self._starting:
            if self._server is None:
                loop = asyncio.get_running_loop()
                port = self._choose_port()
                self._server = await loop.create_server(self._welcome, self._host, port)
        port = self._server.sockets[0].getsockname()[1]
        return IngressAddress(self._host, port, self._secret, application)

    def forget(self, application: str) -> None:
        """Nobody asks its engines any more; they end their connections when they end."""
        self._forgotten.add(application)
        self._clear(application)

    async def close(self) -> None:
        """Hear nobody any more."""
        if self._server is not None:
            self._server.close()
        for link in list(self._links):
            link.connection.close()
        while self._links:  # each says when it is over
            await asyncio.sleep(0)

    def _welcome(self) -> LineConnection:
        link = EngineLink(self._secret, self._note)
        self._links.add(link)
        return link.connection

    def _note(self, link: EngineLink) -> None:
        """Something has changed with an engine."""
        if not link.connection.is_open:
            self._links.discard(link)
        if link.offer is None:
            return
        line = self._lines.get(link.offer.application)
        if line is None:
            link.connection.close()
            return
        if link.connection.is_open:
            line.links.add(link)
        else:
            line.links.discard(link)
        line.serve()
        line.tell_waiting()
        self._clear(link.offer.application)

    def _clear(self, application: str) -> None:
        if application in self._forgotten and not self._lines[application].links:
            del self._lines[application]
            self._forgotten.discard(application)
