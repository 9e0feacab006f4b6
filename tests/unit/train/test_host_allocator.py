"""Freed memory stays: the next tensors of that size ask the kernel for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mulm.train import host_allocator

SCRIPT = """
import resource, sys
import torch
from mulm.train.host_allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(10 << 20) for _ in range(4)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del tensors
print(faults)
"""


def faults(word: str) -> int:
    """Pages that the kernel had to give for four tensors of 40 MB, the sixth time."""
    command = [sys.executable, "-c", SCRIPT, word]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="an allocator of another system")
def test_tensors_cost_no_page_again() -> None:
    assert faults("keep") < 1000 < 10_000 < faults("leave")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_allocator.sys, "platform", "darwin")
    assert not host_allocator.keep_freed_memory()
