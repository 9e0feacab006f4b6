"""The tokens' own way from engines to an ingress: one connection each, for all requests.

A streamed item of a Serve handle costs half a millisecond of both processes, and a busy engine has
a thousand a second. So a request goes over the handle, which routes, bounds and cancels it, and its
tokens come over a plain connection. The ingress has a `TokenReceiver`, each engine host a
`TokenSender`. Invariants: nobody is listened to before he has said the receiver's secret; a mailbox
gets chunks of its own request only, in their order.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from mulm.errors import NotRunningError
from mulm.messages import TokenChunk
from serve_app.chunk_codec import decode_chunk, encode_chunk
from serve_app.engine_report import EngineReport, decode_reports, encode_reports

_log = logging.getLogger(__name__)

_LINE_BYTES = 64 << 20
"""A chunk at most: log-probabilities of a long prompt, with alternatives."""

_TIMEOUT_S = 5.0


class UnreachableError(NotRunningError):
    """An engine cannot connect to the ingress, as behind a firewall."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the tokens of a request are wanted."""

    host: str
    port: int
    secret: str


Mailbox = asyncio.Queue[TokenChunk | Exception | None]
"""A request's chunks; whoever watches its call adds the error, or None at its end."""


class TokenReceiver:
    """The ingress's end.

    Args:
        host: The address of this machine that engines reach.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._secret = secrets.token_hex(16)
        self._server: asyncio.Server | None = None
        self._starting = asyncio.Lock()
        self._mailboxes: dict[str, Mailbox] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._reports: dict[asyncio.StreamWriter, list[EngineReport]] = {}

    def reports(self) -> list[EngineReport]:
        """The newest of each engine that is connected."""
        return [report for reports in self._reports.values() for report in reports]

    async def reply_to(self) -> ReplyTo:
        """Where to send; from the first call on it listens."""
        async with self._starting:
            if self._server is None:
                self._server = await asyncio.start_server(
                    self._serve, self._host, 0, limit=_LINE_BYTES
                )
        return ReplyTo(self._host, self._server.sockets[0].getsockname()[1], self._secret)

    @contextmanager
    def mailbox(self, request_id: str) -> Iterator[Mailbox]:
        """Where the chunks of one request are put while it lasts."""
        assert request_id not in self._mailboxes, "two requests have one id"
        mailbox = self._mailboxes[request_id] = asyncio.Queue()
        try:
            yield mailbox
        finally:
            del self._mailboxes[request_id]

    async def close(self) -> None:
        """Hear nobody any more."""
        if self._server is not None:
            self._server.close()
        await _close_all(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            secret = self._secret.encode() + b"\n"
            said = await asyncio.wait_for(reader.readexactly(len(secret)), _TIMEOUT_S)
            if hmac.compare_digest(said, secret):
                while line := await reader.readline():
                    if line.startswith(b"{"):
                        self._reports[writer] = decode_reports(line)
                    else:
                        self._deliver(decode_chunk(line))
        except (OSError, TimeoutError, ValueError, EOFError) as error:
            _log.warning("connection of an engine ended error=%r", error)
        finally:
            self._writers.discard(writer)
            self._reports.pop(writer, None)
            await _close_all([writer])

    def _deliver(self, chunk: TokenChunk) -> None:
        # Nobody waits where the client has left in the meantime.
        if (mailbox := self._mailboxes.get(chunk.request_id)) is not None:
            mailbox.put_nowait(chunk)


class TokenSender:
    """An engine host's end: a connection to each ingress that asks."""

    def __init__(self) -> None:
        self._writers: dict[ReplyTo, asyncio.StreamWriter] = {}
        self._connecting = asyncio.Lock()

    async def connect(self, reply_to: ReplyTo) -> asyncio.StreamWriter:
        """The connection to an ingress, made where there is none.

        Raises:
            UnreachableError: it cannot be made.
        """
        async with self._connecting:
            writer = self._writers.get(reply_to)
            if writer is None or writer.is_closing():
                self._writers = {to: w for to, w in self._writers.items() if not w.is_closing()}
                writer = self._writers[reply_to] = await _connect(reply_to)
        return writer

    async def send(self, writer: asyncio.StreamWriter, chunk: TokenChunk) -> None:
        """Send a chunk.

        Raises:
            NotRunningError: the connection is gone, and with it what was sent before.
        """
        try:
            writer.write(encode_chunk(chunk))
            await writer.drain()
        except OSError as error:
            raise NotRunningError(f"the ingress is gone: {error}") from None

    def report(self, reports: Iterable[EngineReport]) -> None:
        """Tell all ingresses; one that reads nothing is passed over."""
        line = encode_reports(reports)
        for writer in self._writers.values():
            if not writer.is_closing() and not writer.transport.get_write_buffer_size():
                writer.write(line)

    async def close(self) -> None:
        """End all connections."""
        await _close_all(self._writers.values())


async def _close_all(writers: Iterable[asyncio.StreamWriter]) -> None:
    for writer in list(writers):
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _connect(reply_to: ReplyTo) -> asyncio.StreamWriter:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, writer = await asyncio.open_connection(reply_to.host, reply_to.port)
            writer.write(reply_to.secret.encode() + b"\n")
            await writer.drain()
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"the ingress cannot be reached: {error!r}") from None
    return writer
