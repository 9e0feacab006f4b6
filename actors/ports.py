"""TCP ports of this machine: which are free, and who has taken one.

Called before anything is started, so that a busy port is one clear line and not a stack trace.
"""

from __future__ import annotations

import socket

import psutil

from mulm.errors import ConfigError, PortBusyError


def choose_port(host: str, port: int, variable: str) -> int:
    """The port itself if it is free, any free one for 0.

    Args:
        host: The address that will listen.
        port: The wanted port.
        variable: The environment variable that chooses another one, for the hint.

    Raises:
        PortBusyError: somebody listens there; names the process where the system tells.
        ConfigError: the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a connection that has just ended does not count as busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise ConfigError(
                f"port {port} needs special rights", hint=f"choose a larger one: {variable}=8000"
            ) from None
        except OSError as error:
            if owner_of(port) is None and not _is_local(host):
                raise ConfigError(f"cannot listen on {host!r}: {error.strerror}") from None
            raise _busy(port, variable) from None
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def owner_of(port: int) -> psutil.Process | None:
    """The process that listens on a port, if we may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and connection.pid
            if is_listening and connection.laddr and connection.laddr.port == port:
                return psutil.Process(connection.pid)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass  # not ours to see, or just gone
    return None


def _is_local(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _busy(port: int, variable: str) -> PortBusyError:
    owner = owner_of(port)
    try:
        by = f"process {owner.pid} ({owner.name()})" if owner else "another process"
    except psutil.NoSuchProcess:
        by = "another process"
    return PortBusyError(
        f"port {port} is taken by {by}",
        hint=f"stop it, or choose another port: {variable}={port + 1} mulm up (0 takes a free one)",
        port=port,
        pid=owner.pid if owner else None,
    )
