"""Keeps the port on which replicas hear each other off the network.

Called first by what Serve makes in a replica's process. Serve opens a gRPC port for each replica on
every address of the machine, and what arrives there is unpickled; there is no setting for it.
Invariant: the port listens on the node's own address, which is loopback on one machine.
"""

from __future__ import annotations

from functools import partial
from typing import Any

_EVERYWHERE = "[::]:"


def bind_to_node() -> None:
    """From now on Serve opens the port of this process's replica on the node's address."""
    import ray
    from ray.serve._private import replica

    add_port = replica.add_port_to_grpc_server
    if not isinstance(add_port, partial):
        node_ip = ray.util.get_node_ip_address()
        replica.add_port_to_grpc_server = partial(_add_port, add_port, node_ip)


def _add_port(add_port: Any, node_ip: str, server: Any, address: str) -> Any:
    host = f"[{node_ip}]" if ":" in node_ip else node_ip
    return add_port(server, address.replace(_EVERYWHERE, f"{host}:"))
