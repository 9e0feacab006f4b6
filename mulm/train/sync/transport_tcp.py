"""Rounds over TCP: a server around an aggregator, and the client of an island elsewhere.

The head's host starts `AggregatorServer`; each island has a `TcpRounds`. Invariants: a call ends
within its deadline, also where a cable was pulled; a call that was cut off may be made again, since
all of `Rounds` may; bytes that are no frame of ours end their connection and nothing else; waiting
connections are bounded.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from mulm.errors import (
    AuthError,
    ConflictError,
    CorruptError,
    MulmError,
    NotRunningError,
    TrainingDivergedError,
)
from mulm.train.sync.aggregator import Aggregator
from mulm.train.sync.frames import (
    prove_to_client,
    prove_to_server,
    receive_frame,
    send_frame,
)
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.rounds import (
    Anchor,
    Joined,
    Lease,
    NotAMemberError,
    Offer,
    Standing,
    Update,
)

_log = logging.getLogger(__name__)

SILENCE_S = 20.0
"""A link on which nothing moves for so long is given up."""
_GREETING_S = 5.0
_MOST_CONNECTIONS = 256
_ERRORS: dict[str, type[MulmError]] = {
    error.__name__: error
    for error in (NotAMemberError, ConflictError, CorruptError, TrainingDivergedError)
}


class AggregatorServer:
    """Listens from its making on, until `close`."""

    def __init__(self, aggregator: Aggregator, host: str, secret: str, port: int = 0) -> None:
        self._aggregator, self._secret = aggregator, secret
        self._links: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listening = socket.create_server((host, port), backlog=64)
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, name="aggregator", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections, and hear nobody any more."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)
        with self._lock:
            links = list(self._links)
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listening.accept()
            except OSError:
                return  # closed
            with self._lock:
                is_full = len(self._links) >= _MOST_CONNECTIONS
                if not is_full:
                    self._links.add(link)
            if is_full:
                link.close()
                continue
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        try:
            _tune(link, _GREETING_S)
            if not prove_to_client(link, self._secret):
                _log.warning("an island with another secret was sent away")
                return
            link.settimeout(None)  # an idle island is silent; keep-alive finds a dead one
            while (frame := receive_frame(link, self._aggregator.most_bytes)) is not None:
                send_frame(link, *self._answer(*frame))
        except (NotRunningError, CorruptError) as error:
            _log.info("the link to an island ended reason=%s", error.message)
        finally:
            with self._lock:
                self._links.discard(link)
            link.close()

    def _answer(self, words: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            call = _CALLS[str(words.pop("call"))]
            return call(self._aggregator, words, payload)
        except MulmError as error:
            return {
                "error": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }, b""
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CorruptError(f"a frame with words that are not ours: {error!r}") from None


def _on_join(to: Aggregator, words: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    sizes, rounds = (tuple(map(int, words[name])) for name in ("sizes", "rounds"))
    standing = Standing(sizes, rounds, int(words["line"]))
    return asdict(to.join(str(words["island"]), standing)), b""


def _on_send(to: Aggregator, words: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    to.send(words["island"], Anchor(int(words["fragment"]), int(words["number"]), payload))
    return {}, b""


def _on_fetch(to: Aggregator, words: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    anchor = to.fetch(words["island"], int(words["fragment"]))
    return {"number": anchor.number}, anchor.payload


def _on_lease(to: Aggregator, words: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    return asdict(to.lease(words["island"], int(words["n_rows"]), int(words["n_done"]))), b""


def _on_offer(
    to: Aggregator, words: dict[str, Any], payload: bytes
) -> tuple[dict[str, Any], bytes]:
    offer = Offer(
        str(words["island"]), int(words["fragment"]), int(words["number"]),
        float(words["n_tokens"]), payload,
    )  # fmt: skip
    return {"is_taken": to.offer(offer)}, b""


def _on_take(to: Aggregator, words: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    timeout_s = min(float(words["timeout_s"]), SILENCE_S / 2)
    update = to.take(words["island"], int(words["fragment"]), int(words["number"]), timeout_s)
    if update is None:
        return {}, b""
    return {"islands": sorted(update.islands)}, update.payload


def _on_leave(to: Aggregator, words: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    to.leave(words["island"], int(words["n_done"]))
    return {}, b""


_CALLS: dict[
    str, Callable[[Aggregator, dict[str, Any], bytes], tuple[dict[str, Any], bytes]]
] = {
    "join": _on_join, "send": _on_send, "fetch": _on_fetch, "lease": _on_lease,
    "offer": _on_offer, "take": _on_take, "leave": _on_leave,
}  # fmt: skip


class TcpRounds:
    """`Rounds` of an aggregator elsewhere; each thread that calls has a connection of its own.

    Args:
        most_bytes: Of a payload that is taken.
        silence_s: How long a call waits for a link on which nothing moves.
    """

    def __init__(self, link: OuterLink, most_bytes: int, silence_s: float = SILENCE_S) -> None:
        self._to, self._most_bytes, self._silence_s = link, most_bytes, silence_s
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: set[socket.socket] = set()
        self.sent_bytes = 0
        self.received_bytes = 0

    def join(self, island: str, standing: Standing) -> Joined:
        """See `Rounds.join`."""
        words, _ = self._call("join", island=island, **asdict(standing))
        return Joined(tuple(words["send"]), tuple(words["fetch"]))

    def send(self, island: str, anchor: Anchor) -> None:
        """See `Rounds.send`."""
        said = {"island": island, "fragment": anchor.fragment, "number": anchor.number}
        self._call("send", anchor.payload, **said)

    def fetch(self, island: str, fragment: int) -> Anchor:
        """See `Rounds.fetch`."""
        words, payload = self._call("fetch", island=island, fragment=fragment)
        return Anchor(fragment, int(words["number"]), payload)

    def lease(self, island: str, n_rows: int, n_done: int) -> Lease:
        """See `Rounds.lease`."""
        words, _ = self._call("lease", island=island, n_rows=n_rows, n_done=n_done)
        return Lease(**words)

    def offer(self, offer: Offer) -> bool:
        """See `Rounds.offer`."""
        words, _ = self._call(
            "offer", offer.payload, island=offer.island, fragment=offer.fragment,
            number=offer.number, n_tokens=offer.n_tokens,
        )  # fmt: skip
        return bool(words["is_taken"])

    def take(self, island: str, fragment: int, number: int, timeout_s: float) -> Update | None:
        """See `Rounds.take`; it waits for half of `silence_s` at most."""
        words, payload = self._call(
            "take", island=island, fragment=fragment, number=number,
            timeout_s=min(timeout_s, self._silence_s / 2),
        )  # fmt: skip
        if "islands" not in words:
            return None
        return Update(fragment, number, frozenset(words["islands"]), payload)

    def leave(self, island: str, n_done: int) -> None:
        """See `Rounds.leave`."""
        self._call("leave", island=island, n_done=n_done)

    def close(self) -> None:
        """End all connections; calls under way fail."""
        with self._lock:
            links, self._all = self._all, set()
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def _call(self, name: str, payload: bytes = b"", **said: Any) -> tuple[dict[str, Any], bytes]:
        link = self._connected()
        try:
            send_frame(link, {"call": name, **said}, payload)
            frame = receive_frame(link, self._most_bytes)
            if frame is None:
                raise NotRunningError("the aggregator closed the link")
        except (NotRunningError, CorruptError):
            self._drop(link)
            raise
        words, content = frame
        with self._lock:
            self.sent_bytes += len(payload)
            self.received_bytes += len(content)
        if (error := words.get("error")) is not None:
            raise _ERRORS.get(str(error), NotRunningError)(
                str(words.get("message")), hint=str(words.get("hint", ""))
            )
        return words, content

    def _connected(self) -> socket.socket:
        link: socket.socket | None = getattr(self._own, "link", None)
        if link is not None:
            return link
        try:
            link = socket.create_connection((self._to.host, self._to.port), self._silence_s)
        except OSError as error:
            raise NotRunningError(f"the aggregator does not answer: {error}") from None
        with self._lock:
            self._all.add(link)
        try:
            _tune(link, min(_GREETING_S, self._silence_s))
            prove_to_server(link, self._to.secret)
            link.settimeout(self._silence_s)
        except (NotRunningError, AuthError):
            self._drop(link)
            raise
        self._own.link = link
        return link

    def _drop(self, link: socket.socket) -> None:
        self._own.link = None
        with self._lock:
            self._all.discard(link)
        link.close()


def _tune(link: socket.socket, timeout_s: float) -> None:
    """Small frames at once; a peer that vanished is noticed."""
    link.settimeout(timeout_s)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # as on Linux
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
