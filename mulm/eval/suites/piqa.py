"""PIQA: which of two ways reaches a goal of everyday physics?

Bisk et al., 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

from mulm.eval.suites.base import Row
from mulm.eval.suites.multiple_choice import MultipleChoice, index_of


class Piqa(MultipleChoice):
    """The validation part: the answers of the test part are not published."""

    name = "piqa"
    columns = {"goal": (str,), "sol1": (str,), "sol2": (str,), "label": (int, str)}
    hub = "hf://datasets/baber/piqa@~parquet/*/validation/*.parquet"

    def context(self, row: Row) -> str:
        """The goal."""
        return f"Question: {row['goal']}\nAnswer:"

    def choices(self, row: Row) -> Sequence[str]:
        """The two ways."""
        return [row["sol1"], row["sol2"]]

    def answer(self, row: Row) -> int:
        """The label: 0 or 1."""
        return index_of(row["label"])
