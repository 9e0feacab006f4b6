from __future__ import annotations

import os
import socket

import pytest

from actors.ports import choose_port, owner_of
from mulm.errors import ConfigError, PortBusyError


def test_a_busy_port_names_its_owner_and_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortBusyError) as caught:
            choose_port("127.0.0.1", port, "MULM_HTTP_PORT")
        assert f"process {os.getpid()} (" in caught.value.message
        assert f"MULM_HTTP_PORT={port + 1}" in caught.value.hint
        assert owner_of(port) is not None
    assert choose_port("127.0.0.1", port, "MULM_HTTP_PORT") == port
    assert owner_of(port) is None


def test_zero_takes_any_free_port() -> None:
    assert choose_port("127.0.0.1", 0, "X") > 0


def test_a_foreign_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"198\.51\.100\.1"):
        choose_port("198.51.100.1", choose_port("127.0.0.1", 0, "X"), "X")
