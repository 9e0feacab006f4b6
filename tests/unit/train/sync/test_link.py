"""Links are measured by sending over them, within a time, and for those who know the secret."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.sync_links import address, links
from mulm.errors import AuthError, NotRunningError
from mulm.train.sync.frames import prove_to_server, receive_frame, send_frame
from mulm.train.sync.link import LinkServer, measure_link, speed

SECRET = "the secret"

SERVE = f"""
import sys
from mulm.train.sync.link import LinkServer
server = LinkServer("{address(0)}", "{SECRET}")
print(server.address[1], flush=True)
sys.stdin.readline()
server.close()
"""
MEASURE = f"""
import sys
from mulm.train.sync.link import measure_link
link = measure_link("{address(0)}", int(sys.argv[1]), "{SECRET}")
print(link.up_bytes_per_s, link.down_bytes_per_s, link.round_trip_s)
"""


@pytest.fixture
def server() -> Iterator[LinkServer]:
    server = LinkServer("127.0.0.1", SECRET, part_s=0.1)
    yield server
    server.close()


def test_a_link_is_measured_within_its_time(server: LinkServer) -> None:
    began_s = time.monotonic()
    link = measure_link(*server.address, SECRET, part_s=0.1)
    assert time.monotonic() - began_s < 5.0
    # A loopback that carries less than 10 MB/s is none.
    assert link.up_bytes_per_s > 1e7
    assert link.down_bytes_per_s > 1e7
    assert 0 < link.round_trip_s < 1.0
    assert "Mbit/s up" in str(link)


def test_two_can_be_measured_at_once(server: LinkServer) -> None:
    found: list[float] = []

    def measure() -> None:
        found.append(measure_link(*server.address, SECRET, part_s=0.1).up_bytes_per_s)

    threads = [threading.Thread(target=measure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2


def test_who_does_not_know_the_secret_is_sent_away(server: LinkServer) -> None:
    with pytest.raises(AuthError):
        measure_link(*server.address, "another")


def test_nobody_there_is_told(server: LinkServer) -> None:
    server.close()
    with pytest.raises(NotRunningError):
        measure_link(*server.address, SECRET)


def test_a_question_that_is_not_ours_ends_its_connection_alone(server: LinkServer) -> None:
    with socket.create_connection(server.address, 5) as stranger:
        prove_to_server(stranger, SECRET)
        send_frame(stranger, {"what": "is this"})
        assert receive_frame(stranger, 0) is None
    assert measure_link(*server.address, SECRET, part_s=0.1).up_bytes_per_s > 0


def test_a_link_on_which_nothing_comes_is_no_fast_one() -> None:
    with pytest.raises(NotRunningError):
        speed([(1.0, 0)])


def test_the_beginning_of_a_connection_does_not_count() -> None:
    # A shaped link lets a burst through at first, then 1000 bytes a second.
    marks = [(0.0, 0), (0.01, 50_000), *((0.1 * n, 50_000 + 100 * n) for n in range(1, 11))]
    assert speed(marks) == pytest.approx(1000.0)
    assert speed([(0.0, 0), (2.0, 10)]) == pytest.approx(5.0)


def can_shape() -> bool:
    """Whether this user may make namespaces and shape their links here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc"))):
        return False
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    if made.returncode == 0:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_shaped_link_is_as_fast_as_it_was_made() -> None:
    if not can_shape():
        pytest.skip("only root with iproute2 shapes links")
    with links(2, 40) as spaces:
        inside = ["ip", "netns", "exec"]
        serving = subprocess.Popen(
            [*inside, spaces[0], sys.executable, "-c", SERVE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert serving.stdout is not None
            port = serving.stdout.readline().strip()
            command = [*inside, spaces[1], sys.executable, "-c", MEASURE, port]
            found = [
                [float(word) for word in subprocess.check_output(command, timeout=60).split()]
                for _ in range(2)
            ]
        finally:
            serving.communicate("\n", timeout=20)
    ups, downs, round_trips_s = zip(*found, strict=True)
    # Headers take some 5 %; a busy machine makes it slower, and never faster than it is.
    for rates in (ups, downs):
        assert 0.75 * 5e6 < max(rates) < 1.05 * 5e6
    assert min(round_trips_s) < 0.5
