"""The process group of a training run on machines at home.

Used by `jobs.train`. Invariant: before gloo or nccl starts, each worker has told it which network
interface owns its node's address. Left alone, gloo takes the interface of the host name,
often 127.0.1.1, and the workers wait for each other until the timeout.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _get_default_store

GLOO_VARIABLE, NCCL_VARIABLE = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
TIMEOUT_S = 60
"""How long a worker waits in a collective for its peers, whatever they do meanwhile."""
READY_TIMEOUT = timedelta(hours=6)
"""How long a worker waits for one that fetches data and checkpoints over a slow link."""

_STORE_BACKLOG = 1024
# Keeps the store of worker 0 alive as long as its process, or until the next group is made.
_open_stores: list[TCPStore] = []


class HomeTorchBackend(_TorchBackend):  # type: ignore[misc]
    """Ray's torch backend, with the interface chosen first and a store that only it can reach."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Choose the interface on every worker, open the store, then make the process group."""
        worker_group.execute(choose_interface)
        address, port = worker_group.execute_single(0, open_store)
        worker_group.execute(point_to_store, address, port)
        worker_group.execute(_set_torch_distributed_env_vars)
        n_workers = len(worker_group)
        started = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=n_workers,
                init_method="env://",
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(n_workers)
        ]
        ray.get(started)


class HomeTorchConfig(TorchConfig):  # type: ignore[misc]
    """`TorchConfig` for `HomeTorchBackend`; a dead peer is noticed within `TIMEOUT_S`."""

    @property
    def backend_cls(self) -> type[HomeTorchBackend]:
        """Which backend sets the workers up."""
        return HomeTorchBackend


def open_store() -> tuple[str, int]:
    """Serve torch's rendezvous store from this process; returns its address and port.

    Torch's own way listens on all interfaces of the machine; this socket on the node's alone.
    """
    address = ray.util.get_node_ip_address()
    listener = socket.create_server((address, 0), backlog=_STORE_BACKLOG)
    port = int(listener.getsockname()[1])
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    _open_stores[:] = [store]
    return address, port


def point_to_store(address: str, port: int) -> None:
    """Let this process find the store; no rank serves one of its own."""
    os.environ.update(
        MASTER_ADDR=address, MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True"
    )


def wait_for_all(n_workers: int) -> None:
    """Wait until every worker of the group has come here: each may have had much to fetch.

    Collectives wait for `TIMEOUT_S` only. Who dies on the way ends the group, and so this.
    """
    store = _get_default_store()
    if store.add("mulm/ready", 1) == n_workers:
        store.set("mulm/go", "1")
    store.wait(["mulm/go"], READY_TIMEOUT)


def choose_interface() -> None:
    """Name the interface for gloo and nccl in this process, unless its user has done so."""
    address = ray.util.get_node_ip_address()
    for variable, name in interface_variables(address, addresses_by_interface()).items():
        os.environ.setdefault(variable, name)


def interface_variables(address: str, interfaces: Mapping[str, list[str]]) -> dict[str, str]:
    """What names the interface of an address; nothing where none owns it.

    On the loopback there is one machine, where nccl finds its way by itself.
    """
    name = interface_of(address, interfaces)
    if name is None:
        return {}
    if ipaddress.ip_address(address).is_loopback:
        return {GLOO_VARIABLE: name}
    # "=": without it nccl takes eth0 for a beginning, and eth01 too.
    return {GLOO_VARIABLE: name, NCCL_VARIABLE: f"={name}"}


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
