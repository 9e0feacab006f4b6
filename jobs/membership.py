"""A membership of this machine in a cluster elsewhere, from its beginning to its end.

Called by `mulm join` when `jobs.join.prepare` found nothing against it. Invariants: it says that it
has joined when the head lists this machine, not before; whatever ends the machine's part of Ray
(sleep, a cut cable, a restart of the head) it is started again, until its user leaves.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from actors.head import fresh_temp_dir
from actors.member import Member, MemberInfo
from actors.processes import Pack, exit_status, spawn
from jobs.admission import require_fit
from jobs.departure import Tell, clear_away, depart
from jobs.join_trouble import trouble_of
from mulm.atomic import write_atomic
from mulm.errors import AuthError, NotRunningError
from mulm.home import Home
from mulm.settings import Settings

ARRIVAL_S = 90.0
"""How long a head may take to list this machine: on a busy machine Ray's start takes most of it."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_STEADY_S = 60.0
"""A membership that lasted so long was a good one: the next pause is the first again."""
_MEASURE_S = 60.0
_POLL_S = 0.2


def stay(home: Home, head: str, name: str, trust: str, tell: Tell) -> None:
    """Be a member until told to leave by SIGINT, SIGTERM or `jobs.join.leave`.

    Raises:
        NotRunningError: the head did not take this machine in; with the end of the node's log.
        ConfigError: the head was away, and does not fit any more.
    """
    stopping = Stopping()
    info = MemberInfo(
        id=secrets.token_hex(6), head=head, name=name or socket.gethostname(), trust=trust,
        pid=os.getpid(), started_s=psutil.Process().create_time(),
        temp_dir=str(fresh_temp_dir()),
    )  # fmt: skip
    member = Member(home, info, ports=Settings.from_env().port_range)
    Path(info.temp_dir).mkdir(mode=0o700)
    (Path(info.temp_dir) / "tmp").mkdir()
    write_atomic(home.joined, info.model_dump_json().encode(), mode=0o600)
    try:
        keep_up(member, stopping, tell)
        tell("leaving: work here ends after the step that is under way")
        depart(member, tell)
    finally:
        clear_away(home, info)


class Stopping:
    """Whether somebody asked to leave, by a signal."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._set)

    def _set(self, *_: object) -> None:
        self.is_set = True

    def wait(self, seconds: float) -> None:
        """Until then, or until asked."""
        end_s = time.monotonic() + seconds
        while not self.is_set and time.monotonic() < end_s:
            time.sleep(_POLL_S)


def keep_up(member: Member, stopping: Stopping, tell: Tell, arrival_s: float = ARRIVAL_S) -> None:
    """Start this machine's part again and again, until its user leaves.

    Raises:
        NotRunningError: the head took it in not even once.
    """
    pause_s, has_joined = _FIRST_PAUSE_S, False
    while True:
        started_s = time.monotonic()
        has_joined = _live_once(member, stopping, tell, arrival_s) or has_joined
        if stopping.is_set:
            return
        is_steady = time.monotonic() - started_s > _STEADY_S
        why = "" if has_joined and is_steady else trouble_of(member)
        Pack(member.home, member.info.id).end(grace_s=1.0)  # what a dead raylet left
        if not has_joined:
            raise NotRunningError(
                f"the head at {member.info.head} did not take this machine in", hint=why
            )
        tell(f"the link to {member.info.head} is gone; trying again\n{why}".rstrip())
        pause_s = _wait_for_head(member, stopping, _FIRST_PAUSE_S if is_steady else pause_s)


def _live_once(member: Member, stopping: Stopping, tell: Tell, arrival_s: float) -> bool:
    """From the start of this machine's part to its end; whether the head had taken it in."""
    member.log.unlink(missing_ok=True)
    member = replace(member, link_labels=_measured(member, tell))
    pid = spawn(member.command(), member.env(), member.log)
    if not _arrives(member, pid, stopping, arrival_s):
        return False
    where = f"{member.info.head} as {member.info.name!r}"
    tell(f"joined {where}; Ctrl-C or `mulm leave` ends it")
    while _exit_status(pid) is None and not stopping.is_set:
        stopping.wait(_POLL_S)
    return True


def _measured(member: Member, tell: Tell) -> Mapping[str, str]:
    """The labels of its line to the head; none where that does not answer."""
    command = [sys.executable, "-m", "actors.head_link", member.info.head]
    try:
        done = subprocess.run(  # noqa: S603 our own module
            command,
            env=member.env(),
            capture_output=True,
            text=True,
            timeout=_MEASURE_S,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        tell(f"the line to {member.info.head} was not measured")
        return {}
    labels: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return labels


def _wait_for_head(member: Member, stopping: Stopping, pause_s: float) -> float:
    """Until it answers, asked less and less often; returns the pause before the next question."""
    while not stopping.is_set:
        stopping.wait(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if not stopping.is_set and _is_back(member):
            break
    return pause_s


def _arrives(member: Member, pid: int, stopping: Stopping, arrival_s: float) -> bool:
    """Whether the head lists this machine while its process runs."""
    command = [sys.executable, "-m", "actors.arrival"]
    command += [member.info.head, member.info.id, str(arrival_s)]
    asking = spawn(command, member.env(), member.arrival_log)
    end_s = time.monotonic() + arrival_s + _POLL_S
    while not stopping.is_set and time.monotonic() < end_s:
        if (answer := _exit_status(asking)) is not None:
            return answer == 0
        if _exit_status(pid) is not None:
            return False
        stopping.wait(_POLL_S)
    return False  # what asks carries the mark, and ends with the others


def _exit_status(pid: int) -> int | None:
    """How a child ended, though somebody else has seen to it; None while it runs."""
    try:
        return exit_status(pid)
    except ChildProcessError:
        return 0


def _is_back(member: Member) -> bool:
    """Whether the head answers; refuses for good where it does not fit any more."""
    try:
        require_fit(member.home, member.info.head)
    except (NotRunningError, AuthError):
        return False  # a head that is starting may refuse everybody for a moment
    return True
