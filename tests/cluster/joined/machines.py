"""Machines of their own network on one computer, for tests: where there can be some."""

from __future__ import annotations

import os
import shutil

import pytest

from benchmarks.chaos.machines import Machine, run, two_machines

__all__ = ["Machine", "needs_namespaces", "run", "two_machines"]

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="namespaces of the network need root and iproute2",
)
