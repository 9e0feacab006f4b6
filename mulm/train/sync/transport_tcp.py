"""Rounds over TCP: the client, of an aggregator that `aggregator_server` serves elsewhere.

Each island has one. Invariants: a call ends within its deadline, also where a cable was pulled; a
call that was cut off, or whose answer was damaged, may be made again, since all of `Rounds` may;
once the aggregator has proved itself, a stranger at its place is as good as nobody.
"""

from __future__ import annotations

import socket
import threading
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
from mulm.train.sync.frames import prove_to_server, receive_frame, send_frame, tune
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

SILENCE_S = 20.0
"""A link on which nothing moves for so long is given up."""
_GREETING_S = 5.0
_ERRORS: dict[str, type[MulmError]] = {
    error.__name__: error
    for error in (NotAMemberError, ConflictError, CorruptError, TrainingDivergedError)
}


class TcpRounds:
    """`Rounds` of an aggregator elsewhere; each thread that calls has a connection of its own.

    Args:
        most_bytes: Of a payload that is taken.
        silence_s: How long a call waits for a link on which nothing moves.
    """

    def __init__(self, link: OuterLink, most_bytes: int, silence_s: float = SILENCE_S) -> None:
        self._to, self._most_bytes, self._silence_s = link, most_bytes, silence_s
        self._own = threading.local()
        self._lock, self._is_closed = threading.Lock(), False
        self._has_met = False
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

    def offer(self, offer: Offer) -> int:
        """See `Rounds.offer`."""
        words, _ = self._call(
            "offer", offer.payload, island=offer.island, fragment=offer.fragment,
            number=offer.number, n_tokens=offer.n_tokens,
        )  # fmt: skip
        return int(words["round"])

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
        """End all connections; calls under way fail, as do later ones."""
        with self._lock:
            self._is_closed = True
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
        except (NotRunningError, CorruptError) as error:
            self._drop(link)
            raise NotRunningError(error.message) from None
        words, content = frame
        with self._lock:
            self.sent_bytes += len(payload)
            self.received_bytes += len(content)
        if (kind := words.get("error")) is not None:
            raise _ERRORS.get(str(kind), NotRunningError)(
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
            is_closed = self._is_closed
            if not is_closed:
                self._all.add(link)
        if is_closed:
            link.close()
            raise NotRunningError("this island has ended its connections")
        try:
            tune(link, min(_GREETING_S, self._silence_s))
            prove_to_server(link, self._to.secret)
            link.settimeout(self._silence_s)
        except NotRunningError:
            self._drop(link)
            raise
        except AuthError:
            self._drop(link)
            if self._has_met:  # it has died, and another program got its port
                raise NotRunningError("a stranger is where the aggregator was") from None
            raise
        self._has_met = True
        self._own.link = link
        return link

    def _drop(self, link: socket.socket) -> None:
        self._own.link = None
        with self._lock:
            self._all.discard(link)
        link.close()
