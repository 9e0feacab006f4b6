"""The rules of a recipe: when a document is changed, and when it is dropped.

Read as part of `mulm.data.recipe.Recipe`; obeyed by `mulm.data.clean`, `mulm.data.near` and
`mulm.data.contamination`. Lengths are characters unless a name says otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mulm.config import Frozen

QualityName = Literal["gopher", "gopher_repetition", "c4", "fineweb"]
PersonalData = Literal["mail", "phone", "ip"]


class CleanRules(Frozen):
    """What happens to each document by itself."""

    repair: bool = False
    """Mend mojibake and other damage of encodings (ftfy)."""
    min_chars: int = Field(default=64, ge=1)
    max_line_chars: int = Field(default=20_000, ge=1)
    max_repeated_fraction: float = Field(default=0.7, gt=0, le=1)
    """A document is dropped if more than this part of its characters stands in repeated lines."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes to keep; all if empty."""
    min_language_confidence: float = Field(default=0.65, ge=0, le=1)
    quality: tuple[QualityName, ...] = ()
    """Published families of quality rules, applied in this order."""
    mask: tuple[PersonalData, ...] = ()
    """Personal data that is replaced by a placeholder."""


class NearRules(Frozen):
    """When two documents are the same but for details: MinHash finds pairs, Jaccard decides."""

    min_similarity: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of the sets of word n-grams from which on the later one is dropped."""
    ngram: int = Field(default=5, ge=1, le=32)
    """Words in an n-gram."""


class DedupRules(Frozen):
    """Which repetitions are dropped. Exact ones (blind to white space) always are."""

    near: NearRules | None = None
    against: tuple[str, ...] = ()
    """Dataset versions whose documents count as seen before."""


class DecontaminationRules(Frozen):
    """Documents that hold text of an evaluation are dropped."""

    paths: tuple[str, ...] = Field(min_length=1)
    """Files of evaluations: text, or JSON and JSONL of which all strings count."""
    ngram: int = Field(default=13, ge=1, le=64)
    """A document is dropped if it shares one n-gram of this many words."""
