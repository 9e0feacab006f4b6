"""Functions compiled by torch (TorchInductor): the same mathematics, fused into fewer passes.

Asked for through `Compute.is_compiled` by blocks and by the loss. Invariants: values and gradients
are those of the plain function, up to rounding; for one shape of the arguments the same machine
always computes the same bits, in this process or the next. Code is made at a function's first
call and kept on disk, so that the next process has it in a few seconds.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_COMPILERS = ("g++", "clang++", "c++")


@cache
def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The compiled function; one for each process, for whoever asks.

    Code for a second shape takes sizes as variables, so that there is no third.
    """
    return torch.compile(function)


def why_not_compile(device_type: str) -> str:
    """What torch's compiler lacks on this machine; empty where nothing is missing."""
    if device_type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton is absent"
    if os.environ.get("CXX") or any(map(shutil.which, _COMPILERS)):
        return ""
    return "no C++ compiler is here"


def keep_compiled_in(folder: Path) -> None:
    """Where this process keeps compiled code, unless its environment says otherwise."""
    os.environ.setdefault(_CACHE_VARIABLE, str(folder))
