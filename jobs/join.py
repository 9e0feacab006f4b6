"""Joining and leaving: what `mulm join` does before it stays, and what `mulm leave` does.

`jobs.admission` says what must be true, `jobs.membership` stays. Invariants: nothing starts before
the head's versions are known to fit; leaving ends all that was started here and removes it.
"""

from __future__ import annotations

import os
import signal
import time

from actors.member import read_joined
from jobs.admission import address_of, require_fit, require_free
from jobs.departure import LEAVE_PATIENCE_S, clear_away
from mulm.atomic import write_atomic
from mulm.errors import AuthError, DeadlineError
from mulm.home import Home
from mulm.join_token import ray_token_in

_POLL_S = 0.2


def prepare(home: Home, head: str, token: str | None) -> str:
    """Check everything that can be known before anything starts; returns the head's address.

    Raises:
        ConfigError: the address is none, or versions do not fit.
        AuthError: the token is incomplete, or not the cluster's.
        ConflictError: this home has a cluster of its own, or has joined already.
        NotRunningError: nobody answers there.
    """
    address = address_of(head)
    home.create()
    require_free(home)
    leave(home)  # what a killed `mulm join` left behind
    if token is not None:
        write_atomic(home.join_token, ray_token_in(token).encode(), mode=0o600)
    elif not home.join_token.exists():
        raise AuthError("no token was given", hint="paste the line that `mulm up --lan` printed")
    require_fit(home, address)
    return address


def leave(home: Home, patience_s: float = LEAVE_PATIENCE_S + 60.0) -> bool:
    """Have the membership of this home end; returns whether there was one.

    Raises:
        DeadlineError: it did not end in time.
    """
    info = read_joined(home)
    if info is None:
        home.joined.unlink(missing_ok=True)  # a file that tells nothing
        return False
    if info.is_kept:
        os.kill(info.pid, signal.SIGTERM)
    end_s = time.monotonic() + patience_s
    while info.is_kept:
        if time.monotonic() > end_s:
            raise DeadlineError(
                f"process {info.pid} did not leave within {patience_s:.0f} s", hint="run it again"
            )
        time.sleep(_POLL_S)
    clear_away(home, info)  # where it was killed before it could
    return True
