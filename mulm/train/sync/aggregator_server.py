"""An aggregator on the network: what islands elsewhere say is asked of it.

Made by whoever hosts the aggregator of a run (`outer_host`); `transport_tcp` has the islands' side.
Invariants: nobody is listened to who does not know the run's secret; bytes that are no frame of
ours end their connection and nothing else; a reader that does not read, or stops in the midst of a
frame, is given up; connections are bounded, and each has a thread.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from mulm.errors import CorruptError, MulmError, NotRunningError, PortBusyError
from mulm.train.sync.aggregator import Aggregator
from mulm.train.sync.frames import await_frame, prove_to_client, receive_frame, send_frame, tune
from mulm.train.sync.rounds import Anchor, Offer, Standing
from mulm.train.sync.transport_tcp import SILENCE_S

_log = logging.getLogger(__name__)

_GREETING_S = 5.0
_ACCEPT_PAUSE_S = 0.5
_MOST_CONNECTIONS = 256


class AggregatorServer:
    """Listens from its making on, until `close`, on the first of the ports that is free.

    Raises:
        PortBusyError: all of them are taken.
    """

    def __init__(
        self, aggregator: Aggregator, host: str, secret: str, ports: Sequence[int] = (0,)
    ) -> None:
        self._aggregator, self._secret = aggregator, secret
        self._links: set[socket.socket] = set()
        self._lock, self._is_closing = threading.Lock(), threading.Event()
        self._listening = _listening(host, ports)
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, name="aggregator", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections, and hear nobody any more."""
        self._is_closing.set()
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
            except OSError as error:
                if self._is_closing.is_set():
                    return
                _log.warning("an island could not connect reason=%s", error)
                self._is_closing.wait(_ACCEPT_PAUSE_S)  # as when there are too many open files
                continue
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
            tune(link, _GREETING_S)
            if not prove_to_client(link, self._secret, _GREETING_S):
                _log.warning("an island with another secret was sent away")
                return
            while (frame := self._next_frame(link)) is not None:
                send_frame(link, *self._answer(*frame))
        except (NotRunningError, CorruptError) as error:
            _log.info("the link to an island ended reason=%s", error.message)
        finally:
            with self._lock:
                self._links.discard(link)
            link.close()

    def _next_frame(self, link: socket.socket) -> tuple[dict[str, Any], bytes] | None:
        """An island may be silent between two frames, keep-alive finds a dead one; not in one."""
        link.settimeout(None)
        await_frame(link)
        link.settimeout(SILENCE_S)
        return receive_frame(link, self._aggregator.most_bytes)

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


def _listening(host: str, ports: Sequence[int]) -> socket.socket:
    for port in ports:
        try:
            return socket.create_server((host, port), backlog=64)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise PortBusyError(f"others have all ports that an aggregator may have: {list(ports)}")


def _on_join(to: Aggregator, words: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
    sizes, rounds = (tuple(map(int, words[name])) for name in ("sizes", "rounds"))
    sums = tuple(map(int, words.get("sums", ())))  # islands of an older version tell none
    standing = Standing(sizes, rounds, int(words["line"]), sums)
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
    return {"round": to.offer(offer)}, b""


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
