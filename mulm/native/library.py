"""The compiled kernels as Python functions.

Called by `mulm.native.model`. Invariant: each library is loaded once in a process; calls release
Python's lock.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mulm.model.batch import PAGE_TOKENS
from mulm.native.build import NoKernelsError, build

_log = logging.getLogger(__name__)

_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "mulm_page_tokens": (_INT, ()),
    "mulm_lanes": (_INT, ()),
    "mulm_widest_head": (_INT, ()),
    "mulm_model_new": (_POINTER, (_POINTER, _FLOAT, _POINTER, _POINTER)),
    "mulm_set_threads": (_INT, (_POINTER, _INT)),
    "mulm_model_delete": (None, (_POINTER,)),
    "mulm_page_bytes": (_INT, (_POINTER,)),
    "mulm_set_matrix": (_INT, (_POINTER, _INT, _INT, _POINTER, _INT, _POINTER, _POINTER)),
    "mulm_set_norm": (None, (_POINTER, _INT, _INT, _POINTER)),
    "mulm_adapter_new": (_POINTER, (_POINTER,)),
    "mulm_adapter_add": (_INT, (*[_POINTER] * 2, *[_INT] * 3, _POINTER, _INT, *[_POINTER] * 2)),
    "mulm_adapter_delete": (None, (_POINTER,)),
    "mulm_set_adapter": (_INT, (_POINTER, _INT, _POINTER)),
    "mulm_cache_new": (_POINTER, (_POINTER, _INT)),
    "mulm_cache_delete": (None, (_POINTER,)),
    "mulm_extend": (_INT, (*[_POINTER] * 8, *[_INT] * 4, _POINTER)),
    "mulm_logits": (_INT, (_POINTER, _POINTER, _INT, _POINTER)),
}

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3}
"""As matrix.h numbers them; bytes without a sign hold two numbers of 4 bits."""
WIDEST_HEAD = 1024
"""Dimensions of a head that the kernels have room for."""
FAULTS = (
    "",
    "the sequences do not follow one another",
    "a token id is outside the vocabulary",
    "a position is not after the one before it, or outside the window",
    "a page is outside the cache",
    "a wanted row is outside the batch",
    "no adapter has that number",
    "no memory for the step",
)
"""What `mulm_extend` says of a batch, as check.h numbers it; nothing of one that it computed."""


@cache
def load_library(folder: Path, extra_flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The kernels, compiled into `folder` if they are not there yet. Raises NoKernelsError."""
    library = _opened(folder, extra_flags)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    assert library.mulm_page_tokens() == PAGE_TOKENS, "pages differ between Python and C++"
    assert library.mulm_widest_head() == WIDEST_HEAD, "heads differ between Python and C++"
    return library


def _opened(folder: Path, extra_flags: tuple[str, ...]) -> ctypes.CDLL:
    """A file that is damaged is compiled anew."""
    path = build(folder, extra_flags)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        _log.warning("kernels are compiled anew reason=%s", error)
    try:
        path.unlink(missing_ok=True)
        return ctypes.CDLL(str(build(folder, extra_flags)))
    except OSError as error:
        raise NoKernelsError(f"the compiled kernels cannot be loaded: {error}") from None


def address(tensor: Tensor, dtype: torch.dtype) -> int:
    """Where a contiguous tensor's numbers begin; it must outlive the call."""
    assert tensor.dtype == dtype, f"{tensor.dtype} instead of {dtype}"
    assert tensor.is_contiguous(), "not contiguous"
    assert tensor.device.type == "cpu", f"on {tensor.device}"
    return tensor.data_ptr()
