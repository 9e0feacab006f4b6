"""The file in which an aggregator keeps which rows it has given, between two copies of its state.

Owned by `OuterHost`. Invariants: it is written before rows are given; what is read is what was
written, or said to be damaged; an island leads on only where the driver is that of its life.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from mulm.atomic import make_folder, write_atomic
from mulm.config import canonical_json
from mulm.errors import CorruptError

NAME = "rows.json"


class KeptRows:
    """Of one run.

    Args:
        folder: Of the aggregator.
        life: Marks a driver's: islands of another are gone.
    """

    def __init__(self, folder: Path, life: str) -> None:
        self._folder, self._life = folder, life
        self._last: dict[str, Any] = {}

    def write(self, rows: dict[str, Any]) -> None:
        """Keep them, where they are others than the last.

        Raises:
            NoSpaceError, OSError: they are not on the disk; the next call tries again.
        """
        if rows == self._last:
            return
        make_folder(self._folder)
        kept = {**rows, "life": self._life}
        write_atomic(self._folder / NAME, canonical_json({**kept, "sha256": _sum(kept)}))
        self._last = rows

    def read(self) -> dict[str, Any] | None:
        """Rows, and the `leader` of this life, if there is one; None where nothing was kept.

        Raises:
            CorruptError: the file is damaged.
        """
        path = self._folder / NAME
        if not path.exists():
            return None
        try:
            kept: dict[str, Any] = json.loads(path.read_bytes())
            told = kept.pop("sha256")
            if told != _sum(kept):
                raise CorruptError(f"{path} is damaged")
            opened = [(int(first), int(last)) for first, last in kept["open"]]
            leader = str(kept["leader"]) if kept["life"] == self._life else ""
            return {"line": int(kept["line"]), "open": opened, "leader": leader}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{path} is damaged: {error!r}") from None


def _sum(kept: dict[str, Any]) -> str:
    return sha256(canonical_json(kept)).hexdigest()
