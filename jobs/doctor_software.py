"""Checks of `mulm doctor` on what is installed: Python, packages, the GPU's driver, a compiler."""

from __future__ import annotations

import re

from packaging.requirements import Requirement

from jobs.doctor_finding import Surroundings, Verdict, fault, fine, warning
from mulm.native.build import NoKernelsError, find_compiler

_PYTHONS = ((3, 11), (3, 14))
_DRIVERS = {12: 525, 13: 580}
"""The oldest NVIDIA driver for each major version of CUDA."""
_SET_UP = "run `make setup` in the folder of µLM: it installs the pinned versions"


def python(machine: Surroundings) -> Verdict:
    """Whether this Python is one that µLM is tested with."""
    version = ".".join(map(str, machine.python))
    if _PYTHONS[0] <= machine.python <= _PYTHONS[1]:
        return fine(version)
    return fault(
        f"Python {version}; it needs 3.11 to 3.14",
        "make setup PYTHON=/path/to/a/python3 of such a version",
    )


def packages(machine: Surroundings) -> Verdict:
    """Whether torch, Ray and all others are there, in versions that fit."""
    wrong, shown = [], []
    for text in machine.requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": "app"}):
            continue
        there = machine.version_of(wanted.name)
        if there is None:
            wrong.append(f"{wanted.name} is missing")
        elif not wanted.specifier.contains(there, prereleases=True):
            wrong.append(f"{wanted.name} is {there}, wanted is {wanted.specifier}")
        elif wanted.name in ("torch", "ray"):
            shown.append(f"{wanted.name} {there}")
    return fault("; ".join(wrong), _SET_UP) if wrong else fine(", ".join(shown))


def gpu(machine: Surroundings) -> Verdict:
    """Whether torch and the driver of an NVIDIA GPU go together."""
    found = re.search(r"(\d+)\.\d+", machine.text("proc/driver/nvidia/version").partition("\n")[0])
    cuda = machine.torch_cuda
    if found is None and not (machine.root / "usr/lib/wsl/lib/nvidia-smi").exists():
        return fine("no NVIDIA GPU")
    if cuda is None:
        return warning(
            "there is an NVIDIA GPU, and torch is a build without CUDA",
            "MULM_TORCH=cuda make setup",
        )
    oldest = _DRIVERS.get(int(cuda.partition(".")[0]))
    if found is not None and oldest is not None and int(found.group(1)) < oldest:
        return fault(
            f"the NVIDIA driver is {found.group()}, CUDA {cuda} of torch needs {oldest} or newer",
            "install a newer driver, or MULM_TORCH=cpu make setup",
        )
    return fine(f"NVIDIA driver {found.group() if found else 'of Windows'}, CUDA {cuda}")


def compiler(machine: Surroundings) -> Verdict:
    """Whether fast steps on CPUs can be compiled."""
    try:
        return fine(find_compiler(machine.env))
    except NoKernelsError as error:
        return warning(
            f"{error.message}: CPUs go without the fast kernels, and nothing is compiled",
            "install g++ (Debian, Ubuntu: sudo apt-get install g++), or name one in CXX",
        )
