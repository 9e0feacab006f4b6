"""Whether this machine may join a head: all that can be known before anything starts.

Asked by `jobs.join` and, each time the head was away, by `jobs.membership`. Invariant: what does
not fit is told with what to do about it, and nothing was started or changed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from actors.cluster import connect
from actors.member import member_env, read_joined
from actors.versions import Versions, misfit, parse
from mulm.errors import AuthError, ConfigError, ConflictError, MulmError, NotRunningError
from mulm.home import Home

_REACH_S = 5.0
_ASK_S = 40.0


def address_of(head: str) -> str:
    """The address that a user means, HOST or HOST:PORT, as an address of IPv4 and a port.

    Raises:
        ConfigError: it is none, or the name is not known.
    """
    host, _, port = head.partition(":")
    port = port or "6379"
    if not host or not port.isdecimal():
        raise ConfigError(
            f"{head!r} is no address of a head", hint="as `mulm up --lan` printed it: HOST:PORT"
        )
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError as error:
        raise ConfigError(
            f"{host!r} is not known: {error.strerror}", hint="use its address"
        ) from None


def require_free(home: Home) -> None:
    """A home takes part in one application.

    Raises:
        ConflictError: it has one of its own that is up, or has joined already.
    """
    try:
        info = connect(home)
    except NotRunningError:
        pass
    else:
        raise ConflictError(
            f"this machine's own application is up: process {info.pid}",
            hint="`mulm down` first, or join with another MULM_HOME",
        )
    joined = read_joined(home)
    if joined and joined.is_kept:
        raise ConflictError(
            f"this machine has joined {joined.head} already: process {joined.pid}",
            hint="`mulm leave` first",
        )


def require_fit(home: Home, address: str) -> None:
    """The head answers, knows the token, and its versions are those of this machine.

    Raises:
        NotRunningError: it does not answer.
        AuthError: it does not know the token.
        ConfigError: the versions do not fit.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _REACH_S).close()
    except OSError as error:
        raise NotRunningError(
            f"nobody answers at {address}: {error}",
            hint="is `mulm up --lan` running there, and does its firewall let this machine in?",
        ) from None
    command = [sys.executable, "-m", "actors.versions", address]
    env = os.environ | member_env(home) | {"RAY_ADDRESS": ""}
    try:
        done = subprocess.run(  # noqa: S603 our own module
            command, env=env, capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotRunningError(f"the head at {address} does not answer", hint="try again") from None
    if done.returncode != 0:
        raise _explained(address, done.stderr)
    problem = misfit(parse(done.stdout.splitlines()[-1]), Versions.of_this_machine())
    if problem:
        raise ConfigError(problem[0], hint=problem[1])


def _explained(address: str, errors: str) -> MulmError:
    """Why the head did not tell its versions."""
    if "nauthenticated" in errors or "uthenticat" in errors or "token" in errors.lower():
        return AuthError(
            f"the head at {address} does not know this token",
            hint="paste the line that `mulm up --lan` printed this time",
        )
    last = errors.strip().splitlines()[-1:] or ["it told no versions"]
    return NotRunningError(f"the head at {address} does not answer: {last[0][:200]}")
