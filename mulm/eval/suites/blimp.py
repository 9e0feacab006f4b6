"""BLiMP: of two sentences that differ in one point of grammar, which one is English?

Warstadt et al., "BLiMP: The Benchmark of Linguistic Minimal Pairs for English", 2020. Invariant: a
sentence is scored as a text of its own, after the token that begins one and a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mulm.eval.suites.base import Metric, Row
from mulm.eval.suites.multiple_choice import MultipleChoice


class Blimp(MultipleChoice):
    """67 paradigms of 1,000 pairs; a paradigm is a group."""

    name = "blimp"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("acc"),)
    columns = {"sentence_good": (str,), "sentence_bad": (str,), "UID": (str,)}
    hub = "hf://datasets/nyu-mll/blimp@~parquet/*/train/*.parquet"
    sample = "blimp.jsonl"

    def group(self, row: Row) -> str:
        """The paradigm."""
        return str(row["UID"])

    def context(self, row: Row) -> str:
        """None: a sentence is a text."""
        del row
        return ""

    def choices(self, row: Row) -> Sequence[str]:
        """The good sentence first."""
        return [row["sentence_good"], row["sentence_bad"]]

    def answer(self, row: Row) -> int:
        """Always the first."""
        del row
        return 0
