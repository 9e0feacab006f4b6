"""The recipe: everything that decides what a dataset version contains.

Read from YAML, from `--set` or from an HTTP body. Invariant: the same recipe on the same
files with the same code gives the same manifests, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen
from mulm.errors import MulmError
from mulm.manifest import Kind
from mulm.refs import check_name, parse_ref

_VOCAB_SIZE = 4096


class SourceSpec(Frozen):
    """Where text comes from. `path` is a file, a folder or a glob, relative to where we run."""

    type: str = "text"
    path: str = Field(min_length=1)
    licence: str = "unknown"


class CleanRules(Frozen):
    """When a document is dropped. Lengths are characters."""

    min_chars: int = Field(default=64, ge=1)
    max_line_chars: int = Field(default=20_000, ge=1)
    min_compressed_fraction: float = Field(default=0.1, ge=0, le=1)
    """Text that zlib makes smaller than this fraction says the same thing again and again."""


class SplitRule(Frozen):
    """What is held out: sections, or whole files so that nothing of a book leaks."""

    by: Literal["section", "file"] = "section"
    validation_fraction: float = Field(default=0.05, gt=0, le=0.5)
    salt: str = ""
    """Another salt holds out other documents."""


class TokenizerSpec(Frozen):
    """Train one of `vocab_size` ids, or use the one that `ref` names."""

    vocab_size: int = Field(default=_VOCAB_SIZE, ge=1)
    ref: str | None = None
    fingerprint: str | None = None
    """Refuse any other tokenizer than this one."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizerSpec:
        if self.ref is not None and self.vocab_size != _VOCAB_SIZE:
            raise ValueError("give vocab_size to train a tokenizer or ref to use one, not both")
        return self

    @field_validator("ref")
    @classmethod
    def _is_a_ref(cls, ref: str | None) -> str | None:
        if ref is not None:
            _valid(parse_ref, ref)
        return ref


class Recipe(Frozen):
    """A dataset: its sources, how they are cleaned and split, and how they become tokens."""

    REFERENCES: ClassVar[Mapping[str, Kind]] = {"tokenizer.ref": "tokenizer"}

    name: str
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    clean: CleanRules = CleanRules()
    split: SplitRule = SplitRule()
    tokenizer: TokenizerSpec = TokenizerSpec()
    chat_fraction: float = Field(default=0.0, ge=0, le=1)
    """Of the training sections this part is written as turns of a user and an assistant."""

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
