"""Memory of the CPU that a step has freed stays with the process, for the next step.

Called where training begins in a process of its own. glibc gives large tensors back to the kernel
as soon as they are freed, and the kernel clears the pages of the next ones: on a CPU an eighth of
a step. Invariant: what training computes does not change; nor does the most memory that a process
takes, but it keeps it for as long as it lives.
"""

from __future__ import annotations

import ctypes
import sys

# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Whether this C library can be told so, and was."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST), (_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
