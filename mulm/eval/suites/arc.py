"""ARC: questions of natural science from school tests, with three to five answers.

Clark et al., "Think you have solved question answering?", 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

from mulm.eval.suites.base import Row, RowError
from mulm.eval.suites.multiple_choice import MultipleChoice

_HUB = "hf://datasets/allenai/ai2_arc@~parquet"


class ArcEasy(MultipleChoice):
    """The easy part."""

    name = "arc_easy"
    columns = {"question": (str,), "choices": (dict,), "answerKey": (str,)}
    hub = f"{_HUB}/ARC-Easy/test/*.parquet"

    def context(self, row: Row) -> str:
        """The question."""
        return f"Question: {row['question']}\nAnswer:"

    def choices(self, row: Row) -> Sequence[str]:
        """The texts of the answers."""
        return _column(row, "text")

    def answer(self, row: Row) -> int:
        """The place of the answer's letter, or digit, among the labels."""
        labels = _column(row, "label")
        if row["answerKey"] not in labels:
            raise RowError(f"has the answer {row['answerKey']!r}, and the labels {labels}")
        return labels.index(row["answerKey"])


class ArcChallenge(ArcEasy):
    """Questions that neither retrieval nor word statistics answered."""

    name = "arc_challenge"
    hub = f"{_HUB}/ARC-Challenge/test/*.parquet"


def _column(row: Row, name: str) -> list[str]:
    values = row["choices"].get(name)
    if not isinstance(values, list):
        raise RowError(f'has no list "{name}" in its choices')
    return values
