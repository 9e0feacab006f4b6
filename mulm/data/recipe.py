"""The recipe: everything that decides what a dataset version contains.

Read from YAML, from `--set` or from an HTTP body. Invariant: the same recipe on the same
files with the same code gives the same manifests, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen
from mulm.data.rules import CleanRules, DecontaminationRules, DedupRules
from mulm.data.source_spec import SourceSpec
from mulm.errors import MulmError
from mulm.manifest import Kind
from mulm.refs import check_name, parse_ref

N_SPECIAL = 32
"""Special tokens of a tokenizer that is trained here; `mulm.data.tokenizer` names them."""
MIN_VOCAB_SIZE = N_SPECIAL + 256
"""The specials and one token for each byte: the smallest tokenizer that reads any text."""
VOCAB_SIZE = 4096
MAX_VOCAB_SIZE = 1 << 20


class SplitRule(Frozen):
    """What is held out: sections, or whole files so that nothing of a book leaks."""

    by: Literal["section", "file"] = "section"
    validation_fraction: float = Field(default=0.05, gt=0, le=0.5)
    salt: str = ""
    """Another salt holds out other documents."""


class TokenizerSpec(Frozen):
    """Train one of `vocab_size` ids, or use the one that `ref` names."""

    vocab_size: int = Field(default=VOCAB_SIZE, ge=MIN_VOCAB_SIZE, le=MAX_VOCAB_SIZE)
    ref: str | None = None
    fingerprint: str | None = None
    """Refuse any other tokenizer than this one."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizerSpec:
        if self.ref is not None and self.vocab_size != VOCAB_SIZE:
            raise ValueError("give vocab_size to train a tokenizer or ref to use one, not both")
        return self

    @field_validator("ref")
    @classmethod
    def _is_a_ref(cls, ref: str | None) -> str | None:
        if ref is not None:
            _valid(parse_ref, ref)
        return ref


class PackRule(Frozen):
    """How documents become rows of training.

    "concatenate" lays them end to end, and any `seq_len` can read them. "best_fit" fills rows of
    `seq_len` with whole documents as far as they go; such a version is read with that `seq_len`.
    """

    mode: Literal["concatenate", "best_fit"] = "concatenate"
    seq_len: int | None = Field(default=None, ge=8)

    @model_validator(mode="after")
    def _rows_have_a_length(self) -> PackRule:
        if (self.mode == "best_fit") != (self.seq_len is not None):
            raise ValueError("give seq_len with mode: best_fit, and only there")
        return self


class Recipe(Frozen):
    """A dataset: its sources, how they are cleaned and split, and how they become tokens."""

    REFERENCES: ClassVar[Mapping[str, Kind]] = {
        "tokenizer.ref": "tokenizer",
        "dedup.against": "dataset",
    }

    name: str
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    clean: CleanRules = CleanRules()
    dedup: DedupRules = DedupRules()
    decontaminate: DecontaminationRules | None = None
    split: SplitRule = SplitRule()
    tokenizer: TokenizerSpec = TokenizerSpec()
    pack: PackRule = PackRule()
    chat_fraction: float = Field(default=0.0, ge=0, le=1)
    """Of the training sections this part is written as turns of a user and an assistant."""

    runs_on: Literal["auto", "process", "ray"] = "auto"
    """Who does the work; the result is the same."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"runs_on"})

    @property
    def labels(self) -> tuple[str, ...]:
        """What each source is called."""
        return tuple(spec.name or f"source{n}" for n, spec in enumerate(self.sources, start=1))

    @property
    def mixture(self) -> dict[str, float]:
        """The weight of each source in training; empty if documents are simply all read."""
        pairs = zip(self.labels, self.sources, strict=True)
        return {label: spec.weight for label, spec in pairs if spec.weight is not None}

    @model_validator(mode="after")
    def _sources_can_be_told_apart(self) -> Recipe:
        twice = [label for label, n in Counter(self.labels).items() if n > 1]
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}")
        if len(self.mixture) not in (0, len(self.sources)):
            raise ValueError("give all sources a weight, or none")
        if all(spec.held_out for spec in self.sources):
            raise ValueError("all sources are held_out: nothing is left to learn from")
        return self

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        _valid(check_name, name)
        return name


def _valid(check: object, text: str) -> None:
    """Tell Pydantic of an error of ours, hint included."""
    assert callable(check)
    try:
        check(text)
    except MulmError as error:
        raise ValueError(f"{error.message}: {error.hint}") from None
