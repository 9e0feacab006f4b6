"""How fast a link is: bytes a second each way, and a round trip. Needs no torch.

`LinkServer` is where the aggregator of a run is or will be, `measure_link` asks from a machine that
may train. Both use plain connections, as islands do, and the same greeting. Invariants: a
measurement ends by time, however slow the link is; nobody is answered who does not know the secret;
bytes that travel cannot be compressed.
"""

from __future__ import annotations

import logging
import secrets
import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mulm.errors import CorruptError, MulmError, NotRunningError
from mulm.train.sync.frames import (
    prove_to_client,
    prove_to_server,
    receive_frame,
    send_frame,
    tune,
)

_log = logging.getLogger(__name__)

PART_S = 0.5
"""How long is sent in each direction."""
_SILENCE_S = 5.0
_N_PINGS = 7
_PIECE_BYTES = 256 << 10
_UNSENT_BYTES = 128 << 10
"""What waits in the sender's memory when its time is over takes time to go, on a slow link."""
_SETTLING = 1 / 3
"""The part of the time in which a connection finds its speed."""
_ENTRIES = 32

Mark = tuple[float, int]
"""A moment, and the bytes that had come by then."""


@dataclass(frozen=True, slots=True)
class Link:
    """Between a machine and the aggregator's; up is from the machine."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    round_trip_s: float

    def __str__(self) -> str:
        up, down = (8e-6 * rate for rate in (self.up_bytes_per_s, self.down_bytes_per_s))
        return f"{up:,.0f} Mbit/s up, {down:,.0f} down, {1000 * self.round_trip_s:.1f} ms"


class LinkServer(socketserver.ThreadingTCPServer):
    """Answers from its making on, until `close`."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = _ENTRIES

    def __init__(self, host: str, secret: str, port: int = 0, part_s: float = PART_S) -> None:
        super().__init__((host, port), _Answer)
        self.secret, self.part_s = secret, part_s
        self.address: tuple[str, int] = self.socket.getsockname()[:2]
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="links", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self.shutdown()
        self.server_close()
        self._thread.join(_SILENCE_S)


class _Answer(socketserver.BaseRequestHandler):
    server: LinkServer

    def handle(self) -> None:
        """One connection is one question."""
        link: socket.socket = self.request
        try:
            tune(link, _SILENCE_S)
            if not prove_to_client(link, self.server.secret):
                _log.warning("a machine with another secret was sent away")
                return
            while (frame := receive_frame(link, 0)) is not None:
                self._act(link, str(frame[0].get("what")))
        except (NotRunningError, CorruptError) as error:
            _log.info("a measurement broke off reason=%s", error.message)

    def _act(self, link: socket.socket, what: str) -> None:
        match what:
            case "ping":
                send_frame(link, {})
            case "up":
                rate = speed(_receive_all(link))
                send_frame(link, {"bytes_per_s": rate})
            case "down":
                _send_for(link, self.server.part_s)
                link.shutdown(socket.SHUT_WR)
            case _:
                raise CorruptError(f"a question that is not ours: {what!r}")


def measure_link(host: str, port: int, secret: str, part_s: float = PART_S) -> Link:
    """Measure the link to a `LinkServer`, in a little more than twice `part_s`.

    Raises:
        NotRunningError: it does not answer, or the link broke off.
        AuthError: it does not know the secret.
    """
    with _connected(host, port, secret) as link:
        round_trip_s = min(_ping(link) for _ in range(_N_PINGS))
    with _connected(host, port, secret) as link:
        send_frame(link, {"what": "up"})
        _send_for(link, part_s)
        link.shutdown(socket.SHUT_WR)
        frame = receive_frame(link, 0)
        if frame is None:
            raise NotRunningError("the link broke off while it was measured")
        up = float(frame[0]["bytes_per_s"])
    with _connected(host, port, secret) as link:
        send_frame(link, {"what": "down"})
        down = speed(_receive_all(link))
    return Link(up, down, round_trip_s)


def speed(marks: Sequence[Mark]) -> float:
    """Bytes a second, once a connection has found its speed.

    Raises:
        NotRunningError: nothing came.
    """
    if len(marks) < 2:
        raise NotRunningError("nothing came while a link was measured")
    (first_s, _), (last_s, n_bytes) = marks[0], marks[-1]
    settled_s = first_s + (last_s - first_s) * _SETTLING
    from_s, before = next(
        (mark for mark in marks[:-1] if mark[0] >= settled_s), marks[len(marks) // 2 - 1]
    )
    return (n_bytes - before) / max(last_s - from_s, 1e-6)


def _connected(host: str, port: int, secret: str) -> socket.socket:
    try:
        link = socket.create_connection((host, port), _SILENCE_S)
    except OSError as error:
        raise NotRunningError(f"{host}:{port} does not answer: {error}") from None
    try:
        tune(link, _SILENCE_S)
        prove_to_server(link, secret)
    except MulmError:
        link.close()
        raise
    return link


def _ping(link: socket.socket) -> float:
    began_s = time.monotonic()
    send_frame(link, {"what": "ping"})
    if receive_frame(link, 0) is None:
        raise NotRunningError("the link broke off while it was measured")
    return time.monotonic() - began_s


def _send_for(link: socket.socket, seconds: float) -> None:
    """Send what nobody can compress, as fast as it goes."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    content, until_s = memoryview(secrets.token_bytes(_PIECE_BYTES)), time.monotonic() + seconds
    link.settimeout(_SILENCE_S)
    try:
        while time.monotonic() < until_s:
            rest = content
            while rest and time.monotonic() < until_s:
                rest = rest[link.send(rest) :]
    except OSError as error:
        raise NotRunningError(f"the other end of the link is gone: {error}") from None


def _receive_all(link: socket.socket) -> list[Mark]:
    """When how much had come, to the end of what is sent."""
    room = bytearray(_PIECE_BYTES)
    marks = [(time.monotonic(), 0)]
    try:
        while n_new := link.recv_into(room):
            marks.append((time.monotonic(), marks[-1][1] + n_new))
    except OSError as error:
        raise NotRunningError(f"the other end of the link is silent: {error}") from None
    return marks
