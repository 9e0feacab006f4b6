"""The process group of a training run on machines at home.

Used by `jobs.train`. Invariant: before gloo starts, each worker has told it which network
interface owns its node's address. Left alone, gloo takes the interface of the host name,
often 127.0.1.1, and the workers wait for each other until the timeout.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"
TIMEOUT_S = 60
"""How long a worker waits in a collective for its peers, whatever they do meanwhile."""


class HomeTorchBackend(_TorchBackend):  # type: ignore[misc]
    """Ray's torch backend, with the interface chosen first."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Choose the interface on every worker, then make the process group."""
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class HomeTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` for `HomeTorchBackend`; a dead peer is noticed within `TIMEOUT_S`."""

    @property
    def backend_cls(self) -> type[HomeTorchBackend]:
        """Which backend sets the workers up."""
        return HomeTorchBackend


def choose_interface() -> None:
    """Name the interface for gloo in this process, unless its user has done so."""
    name = interface_of(ray.util.get_node_ip_address(), addresses_by_interface())
    if name:
        os.environ.setdefault(INTERFACE_VARIABLE, name)


def addresses_by_interface() -> dict[str, list[str]]:
    """Addresses of this machine's network interfaces."""
    return {
        name: [entry.address.partition("%")[0] for entry in entries]
        for name, entries in psutil.net_if_addrs().items()
    }


def interface_of(address: str, interfaces: Mapping[str, list[str]]) -> str | None:
    """The interface that owns an address; any loopback address belongs to the loopback one."""
    for name, addresses in interfaces.items():
        if address in addresses:
            return name
    if ipaddress.ip_address(address).is_loopback:
        loopback = {"127.0.0.1", "::1"}
        return next((n for n, owned in interfaces.items() if loopback & set(owned)), None)
    return None
