"""Where memory or threads run out an error comes, and the process lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mulm.native import build as build_module
from mulm.native.build import NoKernelsError, find_compiler
from mulm.native.model import NativeModel
from tests.unit.native.shapes import expected, micro, read, tokens

TOO_MANY = 1 << 50


def test_threads_take_no_memory(tmp_path):
    """What a thread throws ends the process."""
    try:
        compiler = find_compiler()
    except NoKernelsError as error:
        pytest.skip(f"no compiler: {error.message}")
    source, program = Path(__file__).with_name("memory_of_threads.cpp"), tmp_path / "program"
    sources = Path(build_module.__file__).parent
    subprocess.run(
        [compiler, "-std=c++17", "-O0", "-march=native", "-Wno-psabi", "-pthread", f"-I{sources}",
         str(source), "-o", str(program)], check=True, timeout=100,
    )  # fmt: skip
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "0\n"


def test_no_memory_is_told_and_the_model_goes_on(kernels):
    model, ids = micro(), tokens(20)
    native = NativeModel(model, kernels, 2)
    hidden = torch.zeros(1, native.config.d_model)
    room = torch.zeros(1)
    is_done = native.library.mulm_logits(
        native.handle, hidden.data_ptr(), TOO_MANY, room.data_ptr()
    )
    assert not is_done
    torch.testing.assert_close(read(native, ids), expected(model, ids), rtol=1e-4, atol=1e-4)


NO_THREADS = """
import resource, sys
from pathlib import Path
import torch
from mulm.native.model import NativeModel
from tests.unit.native.shapes import micro, read, tokens

folder = Path(sys.argv[1])
before = read(NativeModel(micro(), folder, 2), tokens(20))
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (in_use + (300 << 20), limits[1]))
try:
    NativeModel(micro(), folder, 5000)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, limits)
print(torch.equal(read(NativeModel(micro(), folder, 2), tokens(20)), before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_threads_that_cannot_be_had_are_told(kernels):
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS, str(kernels)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr[-500:]
    assert "5000 threads" in done.stdout
