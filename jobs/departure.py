"""How a membership of this machine ends: the cluster is told, work goes, and all is cleared away.

Called by `jobs.membership` when its user leaves, and by `jobs.join` after one that was killed.
Invariants: nobody waits for longer than `LEAVE_PATIENCE_S` for work to end, and who waits says for
what; afterwards nothing that was started here is left.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from actors.member import Member, MemberInfo
from actors.processes import Pack
from mulm.home import Home

Tell = Callable[[str], None]

LEAVE_PATIENCE_S = 20.0
"""How long work on this machine may take to end when its user leaves."""

_DRAIN_TIMEOUT_S = 15.0
_POLL_S = 0.2
_WORK = {
    re.compile(r"ray::IslandWorker"): "training",
    re.compile(r"ray::RayTrainWorker"): "training",
    re.compile(r"ray::ServeReplica:(?P<name>[^:]+):"): "engine of",
}
"""Titles of Ray's processes that have something to finish, and what they are for their user."""


def depart(member: Member, tell: Tell) -> None:
    """Tell the cluster, and wait until work here has ended or has had its time."""
    command = [sys.executable, "-m", "actors.drain"]
    command += [member.info.head, member.info.id, str(LEAVE_PATIENCE_S)]
    try:
        subprocess.run(  # noqa: S603 our own module
            command, env=member.env(), capture_output=True, timeout=_DRAIN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return  # the head is away: nobody to tell
    end_s, said = time.monotonic() + LEAVE_PATIENCE_S, ""
    while (work := work_in(_titles(member))) and time.monotonic() < end_s:
        if work != said:
            tell(f"leaving: waiting for {work}")
        said = work
        time.sleep(_POLL_S)
    if work:
        tell(f"leaving: ended in the middle after {LEAVE_PATIENCE_S:.0f} s: {work}")


def work_in(titles: Iterable[str]) -> str:
    """What is under way in processes of these titles, for a person; empty where nothing is."""
    found: Counter[str] = Counter()
    for title in titles:
        for form, word in _WORK.items():
            if match := form.match(title):
                found[" ".join([word, *match.groups()])] += 1
    return ", ".join(
        f"{count} x {what}" if count > 1 else what for what, count in sorted(found.items())
    )


def clear_away(home: Home, info: MemberInfo) -> None:
    """End and remove all that a membership started here."""
    Pack(home, info.id).end(grace_s=2.0)
    if Path(info.temp_dir).name.startswith("mulm-"):  # never follow a damaged file elsewhere
        shutil.rmtree(info.temp_dir, ignore_errors=True)
    home.joined.unlink(missing_ok=True)


def _titles(member: Member) -> Iterable[str]:
    for process in Pack(member.home, member.info.id).find():
        try:
            yield " ".join(process.cmdline())
        except psutil.Error:
            continue
