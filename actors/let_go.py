"""The head lets a machine go: that machine does what `mulm leave` there does.

Called by the control API. Invariant: the machine itself ends its membership, as its user would, so
that it drains, clears away and does not come back; the head only asks, through a task that runs
there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.drain import MEMBER_LABEL
from actors.member import read_joined
from mulm.errors import ConflictError, DeadlineError, NotFoundError, NotRunningError
from mulm.home import Home

ASK_TIMEOUT_S = 40.0
"""A process has to be started there, on a PC that may be busy."""

Node = Mapping[str, Any]


def node_to_let_go(nodes: Sequence[Node], wanted: str) -> Node:
    """The machine that a user means: by its name, its address, or the beginning of its id.

    Raises:
        NotFoundError: there is none that lives, or several.
        ConflictError: it is the head, or did not come by `mulm join`.
    """
    living = [node for node in nodes if node["is_alive"]]
    found = [node for node in living if wanted in {node["name"], node["address"], node["id"]}]
    found = found or [node for node in living if len(wanted) >= 4 and node["id"].startswith(wanted)]
    if len(found) != 1:
        names = ", ".join(str(node["name"] or node["address"]) for node in living)
        what = f"{len(found)} machines are called" if found else "no machine is called"
        raise NotFoundError(f"{what} {wanted!r}", hint=f"there are: {names}; an id is unique")
    node = found[0]
    if node["is_head"]:
        raise ConflictError("that is the head itself", hint="`mulm down` ends the application")
    if MEMBER_LABEL not in node["labels"]:
        raise ConflictError(
            f"{wanted!r} did not come by `mulm join`", hint="end it with what has started it"
        )
    return node


def let_go(node: Node) -> None:
    """Ask a machine to leave; it does so from now on, within `LEAVE_PATIENCE_S`.

    Raises:
        DeadlineError: it does not answer in time.
        NotRunningError: it is gone, or nobody there looks after its membership.
    """
    there = NodeAffinitySchedulingStrategy(str(node["id"]), soft=False)
    task = ray.remote(leave_here).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    name = node["name"] or node["address"]
    try:
        has_begun = ray.get(task.remote(str(node["labels"][MEMBER_LABEL])), timeout=ASK_TIMEOUT_S)
    except GetTimeoutError:
        raise DeadlineError(
            f"{name} did not answer within {ASK_TIMEOUT_S:.0f} s", hint="`mulm leave` there"
        ) from None
    except RayError as error:
        raise NotRunningError(f"{name} is gone: {str(error)[:200]}", hint="it has left") from None
    if not has_begun:
        raise NotRunningError(
            f"on {name} nobody looks after its membership", hint="run `mulm leave` there"
        )


def leave_here(member: str) -> bool:
    """Runs on the machine that leaves: whether the process that looks after it was told."""
    info = read_joined(Home.from_env())
    if info is None or info.id != member or not info.is_kept:
        return False
    os.kill(info.pid, signal.SIGTERM)
    return True
