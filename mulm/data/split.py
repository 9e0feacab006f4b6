"""What is held out: decided by a hash of the content alone.

Called by the driver. Invariant: a group's side depends on nothing but its own hash and the
salt, so that adding files moves none of the others (but for corpora so small that the fraction
catches nothing, or everything: then the lowest hash is held out, or the highest kept).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mulm.errors import DataError


def fraction_of(text: str, salt: str) -> float:
    """A stable number in [0, 1) for a text."""
    hashed = hashlib.sha256(f"{salt}:{text}".encode()).digest()
    return int.from_bytes(hashed[:6], "big") / 2**48


def held_out(groups: Iterable[str], fraction: float, salt: str) -> frozenset[str]:
    """The groups whose documents are for validation.

    Raises:
        DataError: fewer than two groups: nothing would be left on one side.
    """
    place = {group: fraction_of(group, salt) for group in groups}
    if len(place) < 2:
        raise DataError(
            "the corpus is smaller than one validation document",
            hint="add text: two sections of some 10 kB (split.by: section) or two files"
            " (split.by: file) are the least",
        )
    in_order = sorted(place, key=lambda group: (place[group], group))
    n_below = sum(place[group] < fraction for group in in_order)
    return frozenset(in_order[: min(max(1, n_below), len(in_order) - 1)])
