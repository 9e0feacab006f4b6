"""The mixture: which source gives the row at a position, in exact proportions.

Called by the loader. Positions go in blocks; inside a block every source has the same count of
rows, and a keyed permutation of the block says who takes which position. Invariants: a pure
function of (weights, key, position) in constant time, so it has no state to resume; over every
whole block the counts are exact; a source hands out its rows 0, 1, 2 ... each once,
those of one block in any order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from fractions import Fraction
from itertools import accumulate

from mulm.data.permutation import permute
from mulm.errors import ConfigError

_LEAST_BLOCK = 1024
_LARGEST_BLOCK = 1 << 24
_LEAST_COUNT = 16
"""Rows of the rarest source in a block: its share is off by at most half a row in 16."""


class Mixture:
    """Sources with weights, mixed.

    Args:
        weights: Source to its share of the rows; they need not add up to 1.
        key: Chooses who takes which position inside a block.

    Raises:
        ConfigError: a weight that is not positive, or is lost beside the others.
    """

    def __init__(self, weights: Mapping[str, float], key: str) -> None:
        self.sources = tuple(sorted(weights))
        shares = _shares([weights[source] for source in self.sources], self.sources)
        self.block_rows = _block_rows(shares, self.sources)
        self._counts = _counts(shares, self.block_rows)
        self._ends = list(accumulate(self._counts))
        self._key = key

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each source in every block."""
        return dict(zip(self.sources, self._counts, strict=True))

    def place(self, position: int) -> tuple[int, int]:
        """The index in `sources` of who takes a position, and as its how-many-th row, from 0."""
        block, index = divmod(position, self.block_rows)
        slot = permute(index, self.block_rows, f"{self._key}:{block}")
        source = bisect_right(self._ends, slot)
        count = self._counts[source]
        return source, block * count + slot - (self._ends[source] - count)


def _shares(weights: list[float], sources: tuple[str, ...]) -> list[Fraction]:
    """Exact fractions: the sum of floats depends on their order."""
    for source, weight in zip(sources, weights, strict=True):
        if not 0 < weight < float("inf"):
            raise ConfigError(
                f"the weight of source {source!r} is {weight!r}",
                hint="use a positive number, or leave the source away",
            )
    total = sum(map(Fraction, weights))
    return [Fraction(weight) / total for weight in weights]


def _block_rows(shares: list[Fraction], sources: tuple[str, ...]) -> int:
    block_rows = _LEAST_BLOCK
    while block_rows * min(shares) < _LEAST_COUNT:
        block_rows *= 2
        if block_rows > _LARGEST_BLOCK:
            rarest = sources[shares.index(min(shares))]
            raise ConfigError(
                f"the weight of source {rarest!r} is too small beside the others",
                hint="give it at least a millionth of all, or leave the source away",
            )
    return block_rows


def _counts(shares: list[Fraction], block_rows: int) -> list[int]:
    """Largest remainder: whole numbers that add up to `block_rows`; ties go to the first."""
    exact = [share * block_rows for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])
    for source in by_remainder[: block_rows - sum(counts)]:
        counts[source] += 1
    return counts
