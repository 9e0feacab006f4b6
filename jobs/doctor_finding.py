"""What a check of `mulm doctor` looks at, and what it finds.

Used by the checks in `jobs.doctor_*`, each a function from surroundings to a verdict. Invariant: a
check changes nothing, and looks at the machine only through what it is given, so a test can give it
a machine with a fault.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import locale
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from mulm.home import Home

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one check says. A fault stops something from working; a warning makes it worse."""

    level: Level
    told: str
    fix: str = ""
    """What to do; empty where all is well."""


class Disk(NamedTuple):
    """Of the filesystem that a path lies on."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """An installation and its machine."""

    home: Home
    env: Mapping[str, str]
    root: Path
    """Where `proc`, `sys` and `dev` are."""
    now_s: float
    python: tuple[int, int]
    requirements: tuple[str, ...]
    """What the package mulm says that it needs."""
    version_of: Callable[[str], str | None]
    """The installed version of a distribution; None without it."""
    torch_cuda: str | None
    """The CUDA that torch was built with, such as `13.0`; None of a build without."""
    disk: Callable[[Path], Disk]
    open_files: int
    """What one process may have open at most."""
    encodings: Mapping[str, str]
    """Of file names, of the locale."""
    user_id: int

    def text(self, path: str) -> str:
        """The content of a file below the root; empty where there is none that can be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""


Check = Callable[[Surroundings], Verdict]


def fine(told: str) -> Verdict:
    """All is well."""
    return Verdict("ok", told)


def warning(told: str, fix: str) -> Verdict:
    """It works, but worse than it could."""
    return Verdict("warning", told, fix)


def fault(told: str, fix: str) -> Verdict:
    """Something does not work, or will not."""
    return Verdict("fault", told, fix)


def these_surroundings(home: Home, env: Mapping[str, str]) -> Surroundings:
    """The machine that this process runs on."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Surroundings(
        home=home,
        env=env,
        root=Path("/"),
        now_s=time.time(),
        python=(sys.version_info.major, sys.version_info.minor),
        requirements=tuple(importlib.metadata.requires("mulm") or ()),
        version_of=_version_of,
        torch_cuda=_torch_cuda(),
        disk=disk_of,
        open_files=1 << 30 if hard == resource.RLIM_INFINITY else hard,
        encodings={
            "file names": sys.getfilesystemencoding(),
            "the locale": locale.getpreferredencoding(False),
        },
        user_id=os.getuid(),
    )


def disk_of(path: Path) -> Disk:
    """Of the filesystem of a path, or of the nearest folder above it that exists."""
    usage = shutil.disk_usage(existing(path))
    return Disk(usage.total, usage.free)


def existing(path: Path) -> Path:
    """A path itself, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """Read from torch's own file, since importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=\n]*= *'([\d.]+)'", text, re.M)
    return found.group(1) if found else None
