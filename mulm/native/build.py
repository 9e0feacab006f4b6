"""Compiles the kernels for the machine at hand, once.

Called by `mulm.native.library`, and by who opens a model, to know whether kernels are there.
Invariants: a library's name is the hash of all that it depends on (source, flags, compiler,
processor), so another machine or version makes its own; what is used is what was compiled, byte for
byte: a sum stands beside it, and what does not match is made anew (a file that was cut would end
the process where its missing part is read).
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mulm.atomic import make_folder, write_atomic
from mulm.errors import ConfigError, DeviceError, NoSpaceError

_log = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent
_MAIN = "kernels.cpp"
_COMPILERS = ("g++", "clang++", "c++")
_FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math", "-Wno-psabi", "-fPIC", "-shared", "-pthread",
)  # fmt: skip
"""Nothing is contracted: which product would be is chosen anew wherever code is inlined, and a row
is to give the same bits in any batch. What is to be rounded once says so itself (lanes.h)."""
_TIMEOUT_S = 300.0
_VERSION_TIMEOUT_S = 30.0


class NoKernelsError(DeviceError):
    """This machine cannot have the kernels; the message says why."""


def find_compiler(env: Mapping[str, str] = os.environ) -> str:
    """The C++ compiler's path. Raises NoKernelsError."""
    named = env.get("CXX", "").split()
    for name in named[:1] or _COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    wanted = f"CXX names {named[0]!r}, which is not here" if named else "no C++ compiler is here"
    raise NoKernelsError(wanted)


def library_path(folder: Path, compiler: str, extra_flags: tuple[str, ...] = ()) -> Path:
    """Where the library for this machine lies, or will. Raises NoKernelsError."""
    parts = [path.read_bytes() for path in _sources()]
    parts += [flag.encode() for flag in (*_FLAGS, *extra_flags)]
    parts += [_output([compiler, "--version"]), _processor()]
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
    return folder / f"kernels-{digest}.so"


def build(folder: Path, extra_flags: tuple[str, ...] = ()) -> Path:
    """The compiled library, made if it is not there yet.

    Raises:
        NoKernelsError: there is no compiler, it fails, or the folder cannot be written.
    """
    compiler = find_compiler()
    path = library_path(folder, compiler, extra_flags)
    began_s = time.monotonic()
    try:
        if is_whole(path):
            return path
        make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder) as room:
            made = Path(room) / path.name
            _compile([compiler, *_FLAGS, *extra_flags, str(_SOURCES / _MAIN), "-o", str(made)])
            _keep(made.read_bytes(), path)
    except (OSError, ConfigError, NoSpaceError) as error:
        raise NoKernelsError(f"kernels cannot be kept in {str(folder)!r}: {error}") from None
    _log.info("kernels compiled seconds=%.1f path=%s", time.monotonic() - began_s, path)
    return path


def is_whole(path: Path) -> bool:
    """Whether the library there is what was compiled; not where it is missing or cannot be read."""
    try:
        return _sum_of(path.read_bytes()) == _sum_path(path).read_bytes()
    except OSError:
        return False


def _keep(content: bytes, path: Path) -> None:
    write_atomic(path, content, mode=0o755)
    write_atomic(_sum_path(path), _sum_of(content))


def _sum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sum_of(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the compiler that the user has
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoKernelsError(f"the compiler took longer than {_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise NoKernelsError(f"the compiler failed: {done.stderr.strip()[-500:]}")


def _sources() -> list[Path]:
    return sorted([*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp")])


def _output(command: list[str]) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - the compiler that the user has
            command, capture_output=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernelsError(f"the compiler does not tell its version: {error}") from None
    return done.stdout


def _processor() -> bytes:
    """What distinguishes processors for whom code differs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(told)).encode()
