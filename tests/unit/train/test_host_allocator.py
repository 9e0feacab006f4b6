"""Freed memory stays: the next tensor of that size asks the kernel for nothing."""

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
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensor = torch.ones(16 << 20)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del tensor
print(faults)
"""


def faults(word: str) -> int:
    """Pages that the kernel had to give for the third of three equal tensors of 64 MB."""
    command = [sys.executable, "-c", SCRIPT, word]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="an allocator of another system")
def test_the_third_tensor_costs_no_page() -> None:
    assert faults("keep") < 100 < 1000 < faults("leave")


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_allocator.sys, "platform", "darwin")
    assert not host_allocator.keep_freed_memory()
