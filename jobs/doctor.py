"""`mulm doctor`: looks for the likely faults of an installation, and says how to mend each.

Called by the command line. Invariants: nothing is changed; a check that breaks hides no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs import (
    doctor_application,
    doctor_environment,
    doctor_home,
    doctor_machine,
    doctor_software,
)
from jobs.doctor_finding import Check, Level, Surroundings, Verdict, warning

CHECKS: Mapping[str, Check] = {
    "python": doctor_software.python,
    "packages": doctor_software.packages,
    "gpu": doctor_software.gpu,
    "compiler": doctor_software.compiler,
    "memory": doctor_machine.memory,
    "shared memory": doctor_machine.shared_memory,
    "open files": doctor_machine.open_files,
    "clock": doctor_machine.clock,
    "wsl": doctor_machine.wsl,
    "text": doctor_environment.text_encoding,
    "settings": doctor_environment.settings,
    "proxies": doctor_environment.proxies,
    "ray": doctor_environment.ray,
    "home": doctor_home.writable,
    "permissions": doctor_home.permissions,
    "disk": doctor_home.disk,
    "filesystem": doctor_home.filesystem,
    "database": doctor_home.database,
    "store": doctor_home.store,
    "key": doctor_home.key,
    "cluster file": doctor_application.cluster_file,
    "answers": doctor_application.answers,
    "leftovers": doctor_application.leftovers,
    "temp folders": doctor_application.temp_folders,
    "ports": doctor_application.ports,
}
"""What is looked at, in the order in which a fault explains those below it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict of one check."""

    check: str
    level: Level
    told: str
    fix: str


def examine(machine: Surroundings, checks: Mapping[str, Check] = CHECKS) -> Iterator[Finding]:
    """Each check's finding, as soon as it is there."""
    for name, check in checks.items():
        verdict = _verdict(check, machine)
        yield Finding(name, verdict.level, verdict.told, verdict.fix)


def _verdict(check: Check, machine: Surroundings) -> Verdict:
    try:
        return check(machine)
    except Exception as error:  # noqa: BLE001 a border: a broken machine may break a check in any way
        told = f"could not be checked: {type(error).__name__}: {error}"
        return warning(told, "look at what it names; if that is in order, please report it")
