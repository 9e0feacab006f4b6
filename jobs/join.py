"""Membership of this machine in a cluster elsewhere: join, stay, leave.

Called by `mulm join` and `mulm leave`. Invariants: nothing starts before the head's versions are
known to fit; whatever ends the machine's part of Ray (sleep, a cut cable, a restart of the head) it
is started again, until its user leaves; leaving ends all that was started here and removes it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import ValidationError

from actors.cluster import connect
from actors.head import fresh_temp_dir
from actors.member import Member, MemberInfo, member_env
from actors.processes import Pack, exit_status, spawn
from actors.versions import Versions, misfit, parse
from mulm.atomic import write_atomic
from mulm.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    DeadlineError,
    MulmError,
    NotRunningError,
)
from mulm.home import Home
from mulm.join_token import ray_token_in

Tell = Callable[[str], None]

_REACH_S = 5.0
_ASK_S = 40.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_STEADY_S = 60.0
"""A membership that lasted so long was a good one: the next pause is the first again."""
_POLL_S = 0.2
_WORK_WORDS = ("IslandWorker", "RayTrainWorker")
LEAVE_PATIENCE_S = 20.0
"""How long work on this machine may take to end when its user leaves."""


def prepare(home: Home, head: str, token: str | None) -> str:
    """Check everything that can be known before anything starts; returns the head's address.

    Raises:
        ConfigError: the address is none, or versions do not fit.
        AuthError: the token is incomplete, or not the cluster's.
        ConflictError: this home has a cluster of its own, or has joined already.
        NotRunningError: nobody answers there.
    """
    address = _address(head)
    home.create()
    _require_free(home)
    leave(home)  # what a killed `mulm join` left behind
    if token is not None:
        write_atomic(home.join_token, ray_token_in(token).encode(), mode=0o600)
    elif not home.join_token.exists():
        raise AuthError("no token was given", hint="paste the line that `mulm up --lan` printed")
    _require_fit(home, address)
    return address


def stay(home: Home, head: str, name: str, trust: str, tell: Tell) -> None:
    """Be a member until told to leave by SIGINT, SIGTERM or `leave`.

    Raises:
        MulmError: what `prepare` raises, if it comes to be true later.
    """
    stopping = _Stopping()
    info = MemberInfo(
        id=secrets.token_hex(6), head=head, name=name or socket.gethostname(), trust=trust,
        pid=os.getpid(), started_s=psutil.Process().create_time(),
        temp_dir=str(fresh_temp_dir()),
    )  # fmt: skip
    member = Member(home, info)
    Path(info.temp_dir).mkdir(mode=0o700)
    (Path(info.temp_dir) / "tmp").mkdir()
    write_atomic(home.joined, info.model_dump_json().encode(), mode=0o600)
    try:
        _keep_up(member, stopping, tell)
        tell("leaving: work here ends after the step that is under way")
        _drain(member)
    finally:
        _clear(home, info)


def leave(home: Home, patience_s: float = LEAVE_PATIENCE_S + 60.0) -> bool:
    """Have the membership of this home end; returns whether there was one.

    Raises:
        DeadlineError: it did not end in time.
    """
    info = read_joined(home)
    if info is None:
        home.joined.unlink(missing_ok=True)  # a file that tells nothing
        return False
    if _looks_after(info):
        os.kill(info.pid, signal.SIGTERM)
    end_s = time.monotonic() + patience_s
    while _looks_after(info):
        if time.monotonic() > end_s:
            raise DeadlineError(
                f"process {info.pid} did not leave within {patience_s:.0f} s", hint="run it again"
            )
        time.sleep(_POLL_S)
    _clear(home, info)  # where it was killed before it could
    return True


def _clear(home: Home, info: MemberInfo) -> None:
    """End and remove all that a membership started here."""
    Pack(home, info.id).end(grace_s=2.0)
    if Path(info.temp_dir).name.startswith("mulm-"):  # never follow a damaged file elsewhere
        shutil.rmtree(info.temp_dir, ignore_errors=True)
    home.joined.unlink(missing_ok=True)


def read_joined(home: Home) -> MemberInfo | None:
    """The membership that the file tells of, whether or not it is true any more."""
    try:
        return MemberInfo.model_validate_json(home.joined.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


class _Stopping:
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


def _keep_up(member: Member, stopping: _Stopping, tell: Tell) -> None:
    pause_s = _FIRST_PAUSE_S
    while not stopping.is_set:
        started_s = time.monotonic()
        pid = spawn(member.command(), member.env(), member.log)
        tell(f"joined {member.info.head} as {member.info.name!r}; Ctrl-C or `mulm leave` ends it")
        while _exit_status(pid) is None and not stopping.is_set:
            stopping.wait(_POLL_S)
        if stopping.is_set:
            return
        Pack(member.home, member.info.id).end(grace_s=1.0)  # what a dead raylet left
        if time.monotonic() - started_s > _STEADY_S:
            pause_s = _FIRST_PAUSE_S
        tell(f"the link to {member.info.head} is gone; trying again")
        while not stopping.is_set:
            stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            if not stopping.is_set and _is_back(member):
                break


def _exit_status(pid: int) -> int | None:
    """How a child ended, though somebody else has seen to it; None while it runs."""
    try:
        return exit_status(pid)
    except ChildProcessError:
        return 0


def _is_back(member: Member) -> bool:
    """Whether the head answers; refuses for good where it does not fit any more."""
    try:
        _require_fit(member.home, member.info.head)
    except (NotRunningError, AuthError):
        return False  # a head that is starting may refuse everybody for a moment
    return True


def _drain(member: Member) -> None:
    command = [sys.executable, "-m", "actors.drain"]
    command += [member.info.head, member.info.id, str(LEAVE_PATIENCE_S)]
    try:
        subprocess.run(  # noqa: S603 our own module
            command, env=member.env(), capture_output=True, timeout=15.0, check=False
        )
    except subprocess.TimeoutExpired:
        return  # the head is away: nobody to tell
    end_s = time.monotonic() + LEAVE_PATIENCE_S
    while _is_working(member) and time.monotonic() < end_s:
        time.sleep(_POLL_S)


def _is_working(member: Member) -> bool:
    for process in Pack(member.home, member.info.id).find():
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if any(word in title for word in _WORK_WORDS):
            return True
    return False


def _address(head: str) -> str:
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


def _require_free(home: Home) -> None:
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
    if joined and _looks_after(joined):
        raise ConflictError(
            f"this machine has joined {joined.head} already: process {joined.pid}",
            hint="`mulm leave` first",
        )


def _looks_after(info: MemberInfo) -> bool:
    """Whether the process of a membership lives: of that number, begun at that time."""
    try:
        process = psutil.Process(info.pid)
        is_ended = process.status() == psutil.STATUS_ZOMBIE  # and its parent has not looked yet
        return not is_ended and abs(process.create_time() - info.started_s) < 1.0
    except psutil.Error:
        return False


def _require_fit(home: Home, address: str) -> None:
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
