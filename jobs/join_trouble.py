"""Why a head did not take this machine in, or let it go: what was logged here, and the likely fix.

Asked by `jobs.membership` before it clears the node's files away. Invariants: reads only; the words
of others are cut and carry no colours; what is not known is shown, not explained.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from actors.member import Member
from mulm.terminal_text import harmless

_FIXES = (
    (r"InvalidAuthToken|AuthenticationError|[Uu]nauthenticated",
     "the head does not know this token: paste the line that `mulm up --lan` printed this time"),
    (r"specified port is \d+|[Aa]ddress already in use",
     "another program of this machine has that port: end it, or choose other ports"),
    (r"No space left", "the disk of this machine is full: free some space"),
    (r"Too many open files", "raise the limit of open files: `ulimit -n 65536` before `mulm join`"),
    (r"health check|heartbeats",
     "the head does not reach this machine: have its firewall let the head in"),
    (r"[Ff]ailed to connect to GCS|[Dd]eadline ?[Ee]xceeded|UNAVAILABLE",
     "the head does not answer: is `mulm up --lan` running, and does its firewall let this machine"
     " in?"),
    (r"timed out during startup", "this machine was too busy to start in time: try again"),
)  # fmt: skip
_UNKNOWN = "no cause that is known here; the end of the log:"
_FAULTS, _TAIL_LINES, _LINE_CHARS, _READ_BYTES = 3, 6, 240, 200_000
_ASK_S = 15.0


def trouble_of(member: Member) -> str:
    """The likely fix in a line, then what the head and the logs of this machine say."""
    lines = [*_said_by_head(member), *log_lines(member)]
    return explained(lines)


def explained(lines: list[str]) -> str:
    """The fix for the last of these lines that has one, then all of them, cut."""
    fixes = [fix for line in reversed(lines) for form, fix in _FIXES if re.search(form, line)]
    tail = [line[:_LINE_CHARS] for line in lines]
    return "\n".join([fixes[0] if fixes else _UNKNOWN, *tail])


def log_lines(member: Member) -> list[str]:
    """What Ray printed here, and what went wrong in its raylet; no frames of a stack."""
    raylet = sorted(Path(member.info.temp_dir).glob("ray/session_2*/logs/raylet.out"))
    lines = list(_unframed(raylet[-1])) if raylet else []
    faults = [line for line in lines if re.search(r" [EFC] \d+ ", line)]
    arrival = list(_unframed(member.arrival_log))
    return [*faults[-_FAULTS:], *arrival[-1:], *list(_unframed(member.log))[-_TAIL_LINES:]]


def _unframed(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _READ_BYTES))
        text = file.read().decode(errors="replace")
    for line in text.splitlines():
        if line.strip() and not line.startswith((" ", "Traceback", "/")):
            yield harmless(line.rstrip())


def _said_by_head(member: Member) -> list[str]:
    command = [sys.executable, "-m", "actors.arrival", member.info.head, member.info.id, "0"]
    try:
        done = subprocess.run(  # noqa: S603 our own module
            command, env=member.env(), capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return []
    words = harmless(done.stdout).strip()
    return [f"the head says: {words}"] if words else []
