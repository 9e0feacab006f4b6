"""HellaSwag: which of four endings continues a description of an everyday scene?

Zellers et al., 2019.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mulm.eval.suites.base import Row
from mulm.eval.suites.multiple_choice import MultipleChoice, index_of

_BRACKETED = re.compile(r"\[.*?\]")


class HellaSwag(MultipleChoice):
    """The validation part: the answers of the test part are not published."""

    name = "hellaswag"
    columns = {
        "ctx_a": (str,),
        "ctx_b": (str,),
        "activity_label": (str,),
        "endings": (list,),
        "label": (str, int),
    }
    hub = "hf://datasets/Rowan/hellaswag@~parquet/*/validation/*.parquet"

    def context(self, row: Row) -> str:
        """The activity, and what happens, its last beginning with a capital."""
        return _clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")

    def choices(self, row: Row) -> Sequence[str]:
        """The endings."""
        return [_clean(str(ending)) for ending in row["endings"]]

    def answer(self, row: Row) -> int:
        """The label."""
        return index_of(row["label"])


def _clean(text: str) -> str:
    """Without the marks of the how-to pages that a part of the scenes comes from."""
    marked = text.strip().replace(" [title]", ". ")
    return _BRACKETED.sub("", marked).replace("  ", " ")
