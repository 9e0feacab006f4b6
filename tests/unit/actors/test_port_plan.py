"""The ports of a machine: few, in a range, those that others have left out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest

from actors.port_plan import OUR_SHARE, plan_ports, server_port, server_ports
from actors.start_hook import trim
from mulm.errors import ConfigError, PortBusyError
from mulm.settings import Settings

HOST = "127.0.0.1"


def free_range(size: int) -> range:
    """Ports in a row that nobody listens on."""
    for first in range(21000, 31000, size):
        with ExitStack() as stack:
            try:
                for port in range(first, first + size):
                    stack.enter_context(socket.create_server((HOST, port)))
            except OSError:
                continue
        return range(first, first + size)
    pytest.fail("no free range")


@pytest.fixture
def ports() -> range:
    return free_range(80)


@pytest.fixture
def taken(ports: range) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def take(stack: ExitStack, port: int) -> None:
    stack.enter_context(socket.create_server((HOST, port)))


def test_all_ports_are_in_the_range_and_apart(ports: range) -> None:
    plan = plan_ports(HOST, ports)
    named = [int(word) for word in plan.arguments if word.isdecimal()]
    assert set(named) <= set(ports)
    assert plan.parts == tuple(ports[:6])
    assert not set(plan.parts) & set(plan.workers)
    assert not set(plan.workers) & set(ports[-OUR_SHARE:])
    pairs = dict(pairwise(plan.arguments))
    assert pairs["--node-manager-port"] == str(ports[0])
    assert pairs["--min-worker-port"] == str(ports[6])


def test_those_of_others_are_left_out(ports: range, taken: ExitStack) -> None:
    for port in (ports[0], ports[2]):
        take(taken, port)
    assert plan_ports(HOST, ports).parts == (ports[1], *ports[3:8])


def test_a_range_that_others_have_is_told(ports: range, taken: ExitStack) -> None:
    for port in ports[:40]:
        take(taken, port)
    with pytest.raises(PortBusyError, match="too many of the ports") as caught:
        plan_ports(HOST, ports)
    assert f"MULM_CLUSTER_PORTS={ports[-1] + 1}-" in str(caught.value.hint)


def test_servers_have_the_end_of_the_range(ports: range, taken: ExitStack) -> None:
    text = f"{ports[0]}-{ports[-1]}"
    settings = Settings(cluster_host="10.0.0.1", cluster_ports=text)
    for port in ports[-OUR_SHARE:-1]:
        take(taken, port)
    assert server_port(HOST, settings) == ports[-1]
    take(taken, ports[-1])
    with pytest.raises(PortBusyError):
        server_port(HOST, settings)
    assert server_port(HOST, Settings(cluster_ports=text)) not in ports[-OUR_SHARE:]


def test_a_server_that_begins_again_has_others_to_try(ports: range, taken: ExitStack) -> None:
    text = f"{ports[0]}-{ports[-1]}"
    first, *others = server_ports(HOST, Settings(cluster_host="10.0.0.1", cluster_ports=text))
    assert sorted([first, *others]) == list(ports[-OUR_SHARE:])
    # Where no firewall bounds them, the system names one that is free then.
    first, *others = server_ports(HOST, Settings(cluster_ports=text))
    take(taken, first)
    assert others == [0]


@pytest.mark.parametrize("text", ["6380", "6380-6400", "80-200", "7000-6000", "1-x", "60000-70000"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="MULM_CLUSTER_PORTS"):
        Settings.from_env({"MULM_CLUSTER_PORTS": text})


def test_the_joining_port_lies_outside() -> None:
    with pytest.raises(ConfigError, match="MULM_CLUSTER_PORT 6400 is one of MULM_CLUSTER_PORTS"):
        Settings.from_env({"MULM_CLUSTER_PORT": "6400"})


def test_a_range_that_was_named_is_kept_and_that_of_ray_is_not() -> None:
    class Parameters:
        ray_client_server_port = 10001
        min_worker_port, max_worker_port = 10002, 19999

    trim(usual := Parameters(), is_head=True)
    assert (usual.min_worker_port, usual.max_worker_port) == (None, None)
    named = Parameters()
    named.min_worker_port, named.max_worker_port = 6386, 6563
    trim(named, is_head=False)
    assert (named.min_worker_port, named.max_worker_port) == (6386, 6563)
