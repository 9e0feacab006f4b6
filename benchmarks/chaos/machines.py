"""Machines of their own network on one computer: namespaces with a cable between them.

Used by the cases and the tests that have two machines. Root only. What a machine runs is a process
in its namespace; a pulled cable is silent.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace, its address, and a home of µLM."""

    name: str
    cable: str
    address: str
    home: Path

    def command(self, *words: str) -> list[str]:
        """A command that runs on this machine."""
        return ["ip", "netns", "exec", self.name, *words]

    def env(self) -> dict[str, str]:
        """Its user's shell."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MULM_"))}
        ports = {"MULM_HTTP_PORT": "0", "MULM_DASHBOARD_PORT": "0", "MULM_N_CPUS": "2"}
        return {**clean, **ports, "MULM_HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def lines_to(self, other: Machine) -> set[tuple[int, int]]:
        """The connections to another machine: the port here and the port there."""
        done = run(self, ["ss", "-Htn", "state", "established"], 20.0)
        ends = (line.split()[2:4] for line in done.stdout.splitlines())
        return {
            (int(here.rpartition(":")[2]), int(there.rpartition(":")[2]))
            for here, there in ends
            if f"{other.address}:" in there.replace("]", "")
        }

    def pull(self) -> None:
        """Pull its cable."""
        _ip("-n", self.name, "link", "set", self.cable, "down")

    def plug(self) -> None:
        """Put it back."""
        _ip("-n", self.name, "link", "set", self.cable, "up")
        _ip("-n", self.name, "route", "replace", "default", "dev", self.cable)

    @contextmanager
    def slowed(self, mbit: int) -> Iterator[None]:
        """What it sends goes no faster."""
        limit = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "200ms")
        tc = ("tc", "-n", self.name, "qdisc")
        subprocess.run([*tc, "add", "dev", self.cable, *limit], check=True)  # noqa: S603
        try:
            yield
        finally:
            subprocess.run([*tc, "del", "dev", self.cable, "root"], check=True)  # noqa: S603


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """A head and another one, with a cable between them."""
    mark = secrets.token_hex(3)
    machines = [
        Machine(f"mulm-{mark}-{n}", f"mu{mark}{n}", f"10.77.0.{n}", folder / f"home{n}")
        for n in (1, 2)
    ]
    one, other = machines
    try:
        for machine in machines:
            _ip("netns", "add", machine.name)
        _ip("link", "add", one.cable, "type", "veth", "peer", "name", other.cable)
        for machine in machines:
            _ip("link", "set", machine.cable, "netns", machine.name)
            _ip("-n", machine.name, "link", "set", "lo", "up")
            _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", machine.cable)
            _ip("-n", machine.name, "link", "set", machine.cable, "up")
            _ip("-n", machine.name, "route", "add", "default", "dev", machine.cable)
        yield one, other
    finally:
        for machine in machines:
            command = ["ip", "netns", "delete", machine.name]
            subprocess.run(command, capture_output=True)  # noqa: S603


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)  # noqa: S603, S607
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr}")


def run(
    machine: Machine, command: Sequence[str], timeout_s: float, python_path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A command on a machine, to its end; it may have other modules than this one."""
    env = machine.env() | ({"PYTHONPATH": str(python_path)} if python_path else {})
    return subprocess.run(  # noqa: S603 - our own command line
        machine.command(*command), env=env, cwd=python_path, capture_output=True, text=True,
        timeout=timeout_s,
    )  # fmt: skip
