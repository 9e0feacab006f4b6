"""An engine host's connections to all ingresses that have greeted it: requests in, tokens out.

Held by the engine host. Invariants: what an ingress asked for ends when its connection does, so
nothing is generated twice for long; all that one step makes for an ingress is one write; a request
that does not fit is refused before anything is generated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

from mulm.errors import MulmError, NotRunningError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.chunk_codec import encode_chunk
from serve_app.engine_client import EngineBusyError, EngineLostError
from serve_app.engine_link import ERROR, LEAVING
from serve_app.engine_links import IngressAddress
from serve_app.engine_report import EngineReport, Offer, encode_reports
from serve_app.line_connection import LineConnection
from serve_app.request_codec import decode_request, encode_error

_log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_RETRY = "try again in a moment"
_DRAIN_POLL_S = 0.05

Put = Callable[[TokenChunk | MulmError], None]
Submit = Callable[[str, GenerateRequest, Put], Callable[[], object]]
"""Begins a request for a model: what it says is put; returns what cancels it. Raises MulmError."""


class IngressLinks:
    """All ingresses that may ask.

    Args:
        submit: Begins a request.
    """

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._links: dict[IngressAddress, _IngressLink] = {}
        self._connecting = asyncio.Lock()
        self._is_leaving = False
        self.n_places = 0
        """Requests that are taken at a time."""

    @property
    def n_requests(self) -> int:
        """Those that are under way."""
        return sum(len(link.cancels) for link in self._links.values())

    @property
    def waiting(self) -> tuple[int, int]:
        """What waits at ingresses, this engine's share: requests, and tokens of their prompts."""
        links = self._links.values()
        return sum(each.n_waiting for each in links), sum(each.waiting_tokens for each in links)

    async def connect(self, address: IngressAddress, offer: Offer) -> None:
        """Be asked from there, unless it is so already. Raises NotRunningError."""
        self.n_places = offer.n_places
        async with self._connecting:
            if address not in self._links and not self._is_leaving:
                link = _IngressLink(self, lambda: self._links.pop(address, None))
                await _connect(link.connection, address)
                link.connection.send(address.secret.encode() + b"\n")
                link.connection.send(offer.encode() + b"\n")
                self._links[address] = link

    def report(self, reports: Iterable[EngineReport]) -> None:
        """Tell all ingresses; one that reads nothing is passed over."""
        line = encode_reports(reports) + b"\n"
        for link in self._links.values():
            if not link.connection.n_unread_bytes:
                link.connection.send(line)

    def begin(self, model_id: str, request: GenerateRequest, put: Put) -> Callable[[], object]:
        """What an ingress asks for; returns what cancels it. Raises MulmError."""
        if self._is_leaving:
            raise EngineLostError("the engine is about to end", hint=_RETRY)
        if self.n_requests >= self.n_places:
            raise EngineBusyError("every place is taken", hint=_RETRY)
        return self._submit(model_id, request, put)

    async def leave(self, timeout_s: float) -> None:
        """Take nothing new, and return when all that is under way has ended, or the time is over.

        What has not ended by then ends with the connection.
        """
        self._is_leaving = True
        for link in self._links.values():
            link.connection.send(LEAVING + b"\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.n_requests:
                    await asyncio.sleep(_DRAIN_POLL_S)

    async def close(self) -> None:
        """End all connections."""
        for link in list(self._links.values()):
            link.connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                while self._links:  # each says when it is over
                    await asyncio.sleep(0.001)


class _IngressLink:
    """One ingress."""

    def __init__(self, links: IngressLinks, on_lost: Callable[[], object]) -> None:
        self._links, self._on_lost = links, on_lost
        self.connection = LineConnection(self._hear, self._lost)
        self.cancels: dict[str, Callable[[], object]] = {}
        """Of the requests that are under way, by id."""
        self.n_waiting = self.waiting_tokens = 0

    def _hear(self, line: bytes) -> None:
        match line[:1]:
            case b"+":
                self._begin(*decode_request(line[1:]))
            case b"-":
                if (cancel := self.cancels.pop(line[1:].decode(), None)) is not None:
                    cancel()
            case b"=":
                self.n_waiting, self.waiting_tokens = map(int, line[1:].split())
            case _:
                raise ValueError("an ingress says what nobody understands")

    def _begin(self, model_id: str, request: GenerateRequest) -> None:
        name, n_open = request.request_id, request.n

        def put(item: TokenChunk | MulmError) -> None:
            nonlocal n_open
            if name not in self.cancels:
                return  # cancelled, while this was on its way
            if isinstance(item, MulmError):
                n_open = 0
                self._tell(name, item)
            else:
                n_open -= item.finish_reason is not None
                self.connection.send(encode_chunk(item) + b"\n")
            if not n_open:
                del self.cancels[name]

        try:
            self.cancels[name] = self._links.begin(model_id, request, put)
        except MulmError as error:
            self._tell(name, error)

    def _tell(self, request_id: str, error: MulmError) -> None:
        self.connection.send(ERROR + encode_error(request_id, error) + b"\n")

    def _lost(self) -> None:
        cancels, self.cancels = self.cancels, {}
        for cancel in cancels.values():
            cancel()
        self._on_lost()


async def _connect(connection: LineConnection, address: IngressAddress) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await loop.create_connection(lambda: connection, address.host, address.port)
    except (OSError, TimeoutError) as error:
        raise NotRunningError(f"the ingress cannot be reached: {error!r}") from None
