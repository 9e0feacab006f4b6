"""Where a file of the user's goes: into a folder that is there.

Used by all verbs that write to a path of the user's. Invariant: a slip of the pen makes no folders.
"""

from __future__ import annotations

import os
from pathlib import Path

from mulm.errors import NotFoundError


def require_folder(path: Path) -> None:
    """Refuse a path in a folder that is not there. Raises NotFoundError."""
    folder = path.parent
    if not os.path.exists(folder):
        raise NotFoundError(
            f"no such folder: {str(folder)!r}", hint="make it first, or name another path"
        )
