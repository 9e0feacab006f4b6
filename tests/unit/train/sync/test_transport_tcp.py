"""Rounds over TCP: what comes from strangers or over bad cables ends one connection, no more."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch

from mulm.errors import AuthError, CorruptError, NotRunningError, PortBusyError
from mulm.train.sync import aggregator_server
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.aggregator_server import AggregatorServer
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.frames import prove_to_client, prove_to_server, receive_frame, send_frame
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.rounds import Anchor, NotAMemberError, Offer, Standing
from mulm.train.sync.transport_tcp import TcpRounds

N, SECRET = 1 << 22, "the secret"
"""An anchor is more than what sockets hold back."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AggregatorServer]:
    """With one member and its anchor; a silence of 0.3 s ends a connection."""
    monkeypatch.setattr(aggregator_server, "SILENCE_S", 0.3)
    aggregator = Aggregator(RoundPlan(n_rows=1000, granule=1))
    aggregator.join("a", Standing((N,)))
    aggregator.send("a", Anchor(0, 0, CODECS["fp32"].encode(torch.zeros(N))))
    server = AggregatorServer(aggregator, "127.0.0.1", SECRET)
    yield server
    server.close()


@pytest.fixture
def well(server: AggregatorServer) -> Iterator[TcpRounds]:
    """An island to which nothing happens."""
    rounds = TcpRounds(OuterLink(*server.address, SECRET, "a"), 4 * N, silence_s=4.0)
    yield rounds
    assert rounds.lease("a", 1, 0).leader == "a", "what others did has reached this one"
    rounds.close()


def connected(server: AggregatorServer, *, is_greeted: bool = True) -> socket.socket:
    link = socket.create_connection(server.address, 5)
    if is_greeted:
        prove_to_server(link, SECRET)
    return link


def is_ended(link: socket.socket) -> bool:
    """Whether the server closes the connection within seconds."""
    link.settimeout(5)
    with link, suppress(ConnectionError):
        while link.recv(1 << 20):
            pass
    return True


def until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.01)


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize("is_greeted", [False, True])
def test_garbage(server: AggregatorServer, is_greeted: bool) -> None:
    link = connected(server, is_greeted=is_greeted)
    link.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n" * 3)
    assert is_ended(link)
    until(lambda: len(server._links) == 0)


@pytest.mark.usefixtures("well")
def test_a_frame_that_is_too_long(server: AggregatorServer) -> None:
    link = connected(server)
    with suppress(NotRunningError):  # it may be ended while this still sends
        send_frame(link, {"call": "send"}, bytes(4 * N + 1))
    assert is_ended(link)


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize(
    "words", [{}, {"call": "close"}, {"call": "lease"}, {"call": "lease", "island": ["a"]}]
)
def test_words_that_are_not_ours(server: AggregatorServer, words: dict[str, object]) -> None:
    link = connected(server)
    send_frame(link, words)
    assert is_ended(link)


@pytest.mark.usefixtures("well")
def test_a_frame_that_stops(server: AggregatorServer) -> None:
    link = connected(server)
    link.sendall(b"\xb5LM1\0\0")
    assert is_ended(link)


@pytest.mark.usefixtures("well")
def test_a_reader_that_does_not_read(server: AggregatorServer) -> None:
    link = connected(server)
    send_frame(link, {"call": "fetch", "island": "a", "fragment": 0})
    until(lambda: len(server._links) == 1)
    until(lambda: len(server._links) == 0)
    link.close()


def test_an_idle_island_is_no_silent_one(server: AggregatorServer, well: TcpRounds) -> None:
    well.lease("a", 1, 0)
    time.sleep(0.5)
    assert len(server._links) == 1


def test_a_damaged_frame_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_frame(ours, {"call": "offer"}, b"numbers")
        content = bytearray(theirs.recv(1000))
        content[-3] ^= 1
        ours.sendall(content)
        with pytest.raises(CorruptError, match="damaged"):
            receive_frame(theirs, 100)


def test_a_damaged_answer_is_a_cut_cable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            link, _ = listening.accept()
            with link:
                assert prove_to_client(link, SECRET)
                receive_frame(link, 100)
                link.sendall(b"?" * 100)

        thread = threading.Thread(target=answer)
        thread.start()
        rounds = TcpRounds(OuterLink("127.0.0.1", listening.getsockname()[1], SECRET, "a"), 100)
        with pytest.raises(NotRunningError):
            rounds.lease("a", 1, 0)
        thread.join()
        rounds.close()


def test_a_server_that_goes_while_it_greets_is_no_stranger() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def vanish() -> None:
            link, _ = listening.accept()
            with link:
                link.sendall(bytes(16))
                link.recv(48)

        thread = threading.Thread(target=vanish)
        thread.start()
        rounds = TcpRounds(OuterLink("127.0.0.1", listening.getsockname()[1], SECRET, "a"), 100)
        with pytest.raises(NotRunningError):
            rounds.lease("a", 1, 0)
        thread.join()


@pytest.mark.usefixtures("well")
def test_a_stranger_who_drips_is_sent_away(
    server: AggregatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else 256 of them would keep all islands out."""
    monkeypatch.setattr(aggregator_server, "_GREETING_S", 0.5)
    with connected(server, is_greeted=False) as link:
        drip = threading.Thread(target=_drip, args=(link,))
        drip.start()
        drip.join(5)
        assert not drip.is_alive()
    until(lambda: len(server._links) == 0)


def _drip(link: socket.socket) -> None:
    with suppress(ConnectionError):
        while True:
            link.sendall(b"x")
            time.sleep(0.05)


@pytest.mark.usefixtures("well")
def test_another_secret(server: AggregatorServer) -> None:
    rounds = TcpRounds(OuterLink(*server.address, "a guess", "a"), 4 * N)
    with pytest.raises(AuthError, match="secrets"):
        rounds.lease("a", 1, 0)
    until(lambda: len(server._links) == 0)


def test_a_closed_client_connects_no_more(server: AggregatorServer, well: TcpRounds) -> None:
    rounds = TcpRounds(OuterLink(*server.address, SECRET, "a"), 4 * N)
    rounds.lease("a", 1, 0)
    rounds.close()
    with pytest.raises(NotRunningError):
        rounds.lease("a", 1, 0)
    well.lease("a", 1, 0)


class Cable:
    """A connection's way to the server, which a test can pull."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to, self.is_pulled = to, threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._links: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._to)
                self._links += [near, far]
                for way in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._carry, args=way))
                    self._threads[-1].start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while content := one.recv(1 << 16):
                if not self.is_pulled.is_set():  # silence, as of a cable: no end, no answer
                    other.sendall(content)

    def close(self) -> None:
        for link in (self._listening, *self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()
        for thread in self._threads:
            thread.join(5)


@pytest.mark.usefixtures("well")
def test_a_pulled_cable_ends_a_call_in_time_and_put_back_it_works(server: AggregatorServer) -> None:
    cable = Cable(server.address)
    rounds = TcpRounds(OuterLink(*cable.address, SECRET, "a"), 4 * N, silence_s=0.4)
    assert rounds.lease("a", 1, 0).n_rows == 1
    cable.is_pulled.set()
    for _ in range(2):
        began_s = time.monotonic()
        with pytest.raises(NotRunningError):
            rounds.lease("a", 1, 0)
        assert time.monotonic() - began_s < 5
    cable.is_pulled.clear()
    assert rounds.lease("a", 1, 1).n_rows == 1
    rounds.close()
    cable.close()


def test_an_offer_of_an_earlier_life_is_told_that_nobody_knows_it() -> None:
    """An aggregator that has died before it wrote anything knows no sizes, and is offered some."""
    server = AggregatorServer(Aggregator(RoundPlan(n_rows=1000, granule=1)), "127.0.0.1", SECRET)
    rounds = TcpRounds(OuterLink(*server.address, SECRET, "a"), 4 * N, silence_s=4.0)
    try:
        with pytest.raises(NotAMemberError):
            rounds.offer(Offer("a", 0, 3, 10.0, bytes(N)))
    finally:
        rounds.close()
        server.close()


def test_an_aggregator_whose_port_was_taken_is_found_at_another() -> None:
    """Who listens at the old one is no aggregator with another secret: it is not there, as yet."""
    aggregator = Aggregator(RoundPlan(n_rows=1000, granule=1))
    first = AggregatorServer(aggregator, "127.0.0.1", SECRET)
    link = OuterLink(*first.address, SECRET, "a")
    rounds = TcpRounds(link, 4 * N, silence_s=4.0)
    rounds.join("a", Standing((N,)))
    first.close()
    with pytest.raises(NotRunningError):
        rounds.lease("a", 1, 0)
    stranger = AggregatorServer(aggregator, "127.0.0.1", "a guess", (link.port,))
    with pytest.raises(NotRunningError, match="stranger"):
        rounds.lease("a", 1, 0)
    again = AggregatorServer(aggregator, "127.0.0.1", SECRET, (link.port, 0))
    assert again.address[1] != link.port
    link.port = again.address[1]
    assert rounds.lease("a", 1, 0).n_rows == 1
    rounds.close()
    for server in (stranger, again):
        server.close()


def test_where_others_have_all_ports_it_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortBusyError, match=str(port)):
            AggregatorServer(Aggregator(RoundPlan(1, 1)), "127.0.0.1", SECRET, (port,))
