"""Which ports a machine of an open cluster listens on: few, in a range that a firewall can open.

Used by `actors.head` and `actors.member` for Ray's own, by those of our servers that other machines
reach for theirs. Invariants: all lie in `MULM_CLUSTER_PORTS`; those of our servers are never given
to Ray's workers; a port that somebody has is left out.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from actors.ports import choose_port, is_free
from mulm.errors import PortBusyError
from mulm.settings import Settings, variable_of

_PARTS = (
    "--node-manager-port",
    "--object-manager-port",
    "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
)
"""Ray's processes that listen, as `ray start` names their ports."""
OUR_SHARE = 16
"""Ports at the end of the range that are for our servers, of which each run on islands has one."""


@dataclass(frozen=True, slots=True)
class PortPlan:
    """The ports of one machine's part of Ray."""

    parts: tuple[int, ...]
    workers: range

    @property
    def arguments(self) -> list[str]:
        """Of `ray start`."""
        named = [word for part, port in zip(_PARTS, self.parts, strict=True)
                 for word in (part, str(port))]  # fmt: skip
        first, last = str(self.workers[0]), str(self.workers[-1])
        return [*named, "--min-worker-port", first, "--max-worker-port", last]


def plan_ports(host: str, ports: range) -> PortPlan:
    """Choose from the beginning of the range.

    Raises:
        PortBusyError: others have nearly all of them.
    """
    free = _free(host, ports[:-OUR_SHARE])
    parts = tuple(port for _, port in zip(_PARTS, free, strict=False))
    workers = range(parts[-1] + 1 if parts else ports[-1], ports[-OUR_SHARE])
    if len(parts) < len(_PARTS) or len(workers) < len(ports) // 2:
        raise _busy(ports)
    return PortPlan(parts, workers)


def server_port(host: str, settings: Settings) -> int:
    """A port for a server of ours: of the range where other machines reach it, else any free one.

    Raises:
        PortBusyError: all are taken.
    """
    if not settings.is_open:
        return choose_port(host, 0, variable_of("cluster_ports"))
    free = list(_free(host, settings.port_range[-OUR_SHARE:]))
    if not free:
        raise _busy(settings.port_range)
    return secrets.choice(free)  # several may choose at once


def server_ports(host: str, settings: Settings) -> tuple[int, ...]:
    """For a server of ours that may have to begin again: it takes the first of them that is free.

    That is the same one, unless somebody took it meanwhile.

    Raises:
        PortBusyError: all are taken.
    """
    first = server_port(host, settings)
    if not settings.is_open:
        return first, 0
    return first, *(port for port in settings.port_range[-OUR_SHARE:] if port != first)


def _free(host: str, ports: range) -> Iterator[int]:
    return (port for port in ports if is_free(host, port))


def _busy(ports: range) -> PortBusyError:
    return PortBusyError(
        f"too many of the ports {ports[0]} to {ports[-1]} are taken by others",
        hint=f"choose others: {variable_of('cluster_ports')}={ports[-1] + 1}-"
        f"{ports[-1] + len(ports)}",
    )
