"""The shapes in which steps of fixed shape are computed: how many rows, and pages of each.

Asked by `mulm.engine.static_step`. Invariant: what fits any shape fits the largest.
"""

from __future__ import annotations

from dataclasses import dataclass

from mulm.model.batch import PIECE_PAGES

MOST_ROWS = 256
"""Larger steps do so much that starting their kernels is a small part."""
_LEAST_ROWS = 8
"""Also of a step of one stream, which reads guesses or the end of a prompt."""
_ROWS_TOGETHER = 32
"""Rows of an invariant step are a multiple: no row is in a part that kernels treat by itself."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One fixed shape."""

    rows: int
    pages: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """Each number of rows with each number of pages, both ascending."""

    rows: tuple[int, ...]
    pages: tuple[int, ...]

    @classmethod
    def of_steps(cls, n_slots: int, n_pages: int) -> Shapes:
        """Rows for a token of each slot: 1, 2, 4, 8 and so on; more than half of them are used.

        Args:
            n_slots: Sequences that run at the same time.
            n_pages: Pages of one at most.
        """
        most = min(max(n_slots, _LEAST_ROWS), MOST_ROWS)
        return cls(_doubled(1, most), _doubled(PIECE_PAGES, _up(n_pages, PIECE_PAGES)))

    @classmethod
    def invariant(cls, n_slots: int, n_pages: int) -> Shapes:
        """One number of rows for every step."""
        pages = cls.of_steps(n_slots, n_pages).pages
        return cls((_up(min(n_slots, MOST_ROWS), _ROWS_TOGETHER),), pages)

    def smallest(self, n_rows: int, n_pages: int) -> Shape | None:
        """The smallest that has so many, if any has."""
        rows = next((rows for rows in self.rows if rows >= n_rows), None)
        pages = next((pages for pages in self.pages if pages >= n_pages), None)
        return None if rows is None or pages is None else Shape(rows, pages)

    @property
    def largest(self) -> Shape:
        """The one with the most of both."""
        return Shape(self.rows[-1], self.pages[-1])

    def largest_first(self) -> list[Shape]:
        """All of them."""
        return sorted((Shape(r, p) for r in self.rows for p in self.pages), reverse=True)


def _doubled(first: int, last: int) -> tuple[int, ...]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(2 * sizes[-1], last))
    return tuple(sizes)


def _up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
