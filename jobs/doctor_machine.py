"""Checks of `mulm doctor` on the machine: memory, shared memory, limits, the clock, WSL."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from jobs.dataset_words import size_text
from jobs.doctor_finding import Surroundings, Verdict, fault, fine, warning
from mulm.errors import MulmError
from mulm.settings import Settings

_LEAST_MEMORY_BYTES = 2_000_000_000
_GOOD_MEMORY_BYTES = 4_000_000_000
_WSL_MEMORY_BYTES = 8_000_000_000
_LEAST_OPEN_FILES = 4096
_NO_EARLIER_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_CLOCK_SLACK_S = 3600.0


def memory(machine: Surroundings) -> Verdict:
    """Whether the application fits, also into what a container may take."""
    total, limit = _total_bytes(machine), _limit_bytes(machine)
    if total is None:
        return fine("this system does not tell")
    usable = min(total, limit or total)
    by = "a container's limit" if usable < total else "the machine"
    told = f"{size_text(usable)} of memory ({by})"
    fix = "allow more: docker run --memory=8g, or systemd's MemoryMax"
    if usable == total:
        fix = "a smaller model, fewer workers (--set workers=1), or a machine with more"
    if usable < _LEAST_MEMORY_BYTES:
        return fault(f"{told}; with Ray it takes 2 GB at least", fix)
    if usable < _GOOD_MEMORY_BYTES:
        return warning(f"{told}; training with two workers takes 4 GB", fix)
    return fine(told)


def shared_memory(machine: Surroundings) -> Verdict:
    """Whether what workers hand each other fits into /dev/shm."""
    folder = machine.root / "dev/shm"
    if not folder.is_dir():
        return fine("this system has no /dev/shm")
    size_bytes = machine.disk(folder).total_bytes
    wanted_bytes = _object_store_bytes(machine)
    if size_bytes >= wanted_bytes:
        return fine(size_text(size_bytes))
    return warning(
        f"{folder} has {size_text(size_bytes)}, Ray is given {size_text(wanted_bytes)}:"
        " it then takes the disk, which is slow",
        "docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm",
    )


def open_files(machine: Surroundings) -> Verdict:
    """Whether Ray may open as many files as it does."""
    if machine.open_files >= _LEAST_OPEN_FILES:
        return fine(f"{machine.open_files} at most")
    return warning(
        f"a process may have {machine.open_files} files open, Ray wants {_LEAST_OPEN_FILES}",
        "`nofile` in /etc/security/limits.conf, LimitNOFILE of systemd, or docker --ulimit nofile",
    )


def clock(machine: Surroundings) -> Verdict:
    """Whether times make sense: certificates, ages and the garbage collection go by them."""
    now = datetime.fromtimestamp(machine.now_s, UTC).isoformat(timespec="minutes")
    fix = "set the clock: sudo timedatectl set-ntp true"
    if machine.now_s < _NO_EARLIER_S:
        return fault(f"the clock says {now}, which is long ago", fix)
    try:
        written_s = machine.home.ledger.stat().st_mtime
    except OSError:
        return fine(now)
    if written_s > machine.now_s + _CLOCK_SLACK_S:
        written = datetime.fromtimestamp(written_s, UTC).isoformat(timespec="minutes")
        return warning(f"the clock says {now}, and the ledger was written {written}", fix)
    return fine(now)


def wsl(machine: Surroundings) -> Verdict:
    """Whether Windows gives its Linux enough memory: by default half of what there is."""
    if "microsoft" not in machine.text("proc/version").lower():
        return fine("not under Windows")
    total = _total_bytes(machine) or 0
    if total >= _WSL_MEMORY_BYTES:
        return fine(f"WSL with {size_text(total)}")
    return warning(
        f"Windows gives WSL {size_text(total)} of memory",
        "write `[wsl2]` and `memory=12GB` into %UserProfile%\\.wslconfig, then `wsl --shutdown`",
    )


def _total_bytes(machine: Surroundings) -> int | None:
    found = re.search(r"^MemTotal: +(\d+) kB", machine.text("proc/meminfo"), re.M)
    return int(found.group(1)) * 1024 if found else None


def _limit_bytes(machine: Surroundings) -> int | None:
    """What the control group allows, of either version; None without a limit."""
    files = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
    limits = [int(text) for path in files if (text := machine.text(path).strip()).isdecimal()]
    return min(limits, default=None)


def _object_store_bytes(machine: Surroundings) -> int:
    try:
        return Settings.from_env(machine.env).object_store_bytes
    except MulmError:  # the check of settings tells
        return Settings().object_store_bytes
