"""Frames: what travels on a connection between an island and its aggregator.

Used by both ends in `transport_tcp`. A frame is a small JSON object and bytes. Invariants: nothing
is read that is longer than the reader allows; what was damaged on the way is noticed; nobody is
listened to before he proved that he knows the run's secret, and both ends prove it; no frame can
run code.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import struct
import time
import zlib
from collections.abc import Mapping
from typing import Any

from mulm.errors import AuthError, CorruptError, NotRunningError

_HEAD = struct.Struct(">4sIQI")
_MAGIC = b"\xb5LM1"
_WORDS_BYTES = 64 << 10
"""Of the JSON object at most."""
_NONCE_BYTES = 16
_PROOF_BYTES = 32
_PIECE_BYTES = 1 << 20


def send_frame(link: socket.socket, words: Mapping[str, Any], payload: bytes = b"") -> None:
    """Send a frame.

    Raises:
        NotRunningError: the other end is gone, or takes nothing for as long as the link's timeout.
    """
    said = json.dumps(words).encode()
    check = zlib.crc32(payload, zlib.crc32(said))
    try:
        link.sendall(_HEAD.pack(_MAGIC, len(said), len(payload), check) + said)
        view = memoryview(payload)
        # In pieces: the timeout of a socket is for the whole of what is sent at once.
        for start in range(0, len(view), _PIECE_BYTES):
            link.sendall(view[start : start + _PIECE_BYTES])
    except OSError as error:
        raise NotRunningError(f"the other end of the link is gone: {error}") from None


def receive_frame(link: socket.socket, most_bytes: int) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None where the other end has closed the connection between two.

    Raises:
        NotRunningError: it broke off, or said nothing for as long as the link's timeout.
        CorruptError: it is no frame, or was damaged, or is longer than `most_bytes`.
    """
    head = _receive(link, _HEAD.size, can_end=True)
    if not head:
        return None
    magic, n_said, n_payload, check = _HEAD.unpack(head)
    if magic != _MAGIC:
        raise CorruptError("what came is no frame of ours")
    if n_said > _WORDS_BYTES or n_payload > most_bytes:
        raise CorruptError(f"a frame of {n_said + n_payload} bytes is longer than is allowed")
    said, payload = _receive(link, n_said), _receive(link, n_payload)
    if zlib.crc32(payload, zlib.crc32(said)) != check:
        raise CorruptError("a frame was damaged on its way")
    try:
        words = json.loads(said)
    except ValueError:
        raise CorruptError("a frame's words are no JSON") from None
    if not isinstance(words, dict):
        raise CorruptError("a frame's words are no object")
    return words, bytes(payload)


def tune(link: socket.socket, timeout_s: float) -> None:
    """Small frames at once; a peer that vanished is noticed."""
    link.settimeout(timeout_s)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # as on Linux
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def await_frame(link: socket.socket) -> None:
    """Wait until there is something to receive, or the other end is gone.

    Raises:
        NotRunningError: it is.
    """
    try:
        link.recv(1, socket.MSG_PEEK)
    except OSError as error:
        raise NotRunningError(f"the other end of the link is silent: {error}") from None


def prove_to_server(link: socket.socket, secret: str) -> None:
    """The client's part of the greeting.

    Raises:
        AuthError: the other end does not know the secret, or says that we don't.
        NotRunningError: it is gone.
    """
    theirs, own = bytes(_receive(link, _NONCE_BYTES)), secrets.token_bytes(_NONCE_BYTES)
    _send(link, own + _proof(secret, b"client", theirs, own))
    answer = bytes(_receive(link, _PROOF_BYTES))
    if not hmac.compare_digest(answer, _proof(secret, b"server", theirs, own)):
        raise AuthError(
            "the aggregator and this island have different secrets",
            hint="islands of one run get theirs from the run's driver",
        )


def prove_to_client(link: socket.socket, secret: str, within_s: float = 5.0) -> bool:
    """The server's part; whether the other end knows the secret.

    Raises:
        NotRunningError: it is gone, or has not said its part within that time.
    """
    own, silence_s = secrets.token_bytes(_NONCE_BYTES), link.gettimeout()
    _send(link, own)
    until_s = time.monotonic() + within_s
    said = bytes(_receive(link, _NONCE_BYTES + _PROOF_BYTES, until_s=until_s))
    link.settimeout(silence_s)
    theirs, proof = said[:_NONCE_BYTES], said[_NONCE_BYTES:]
    if not hmac.compare_digest(proof, _proof(secret, b"client", own, theirs)):
        _send(link, bytes(_PROOF_BYTES))  # or the client takes it for a cut cable
        return False
    _send(link, _proof(secret, b"server", own, theirs))
    return True


def _proof(secret: str, role: bytes, of_server: bytes, of_client: bytes) -> bytes:
    return hmac.digest(secret.encode(), role + of_server + of_client, "sha256")


def _send(link: socket.socket, content: bytes) -> None:
    try:
        link.sendall(content)
    except OSError as error:
        raise NotRunningError(f"the other end of the link is gone: {error}") from None


def _receive(
    link: socket.socket, count: int, *, can_end: bool = False, until_s: float | None = None
) -> bytearray:
    """So many bytes; none where `can_end` and the connection ends before the first.

    With `until_s` all have to come before then, however they drip.
    """
    content = bytearray(count)
    view, have = memoryview(content), 0
    while have < count:
        try:
            if until_s is not None:
                link.settimeout(max(0.001, until_s - time.monotonic()))
            n_new = link.recv_into(view[have:], min(count - have, _PIECE_BYTES))
        except OSError as error:
            raise NotRunningError(f"the other end of the link is silent: {error}") from None
        if n_new == 0:
            if can_end and have == 0:
                return bytearray()
            raise NotRunningError("the other end of the link broke off")
        have += n_new
    return content
