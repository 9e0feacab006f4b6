"""The configuration of a run that makes a tokenizer alone: the file, `--set` and the HTTP body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from mulm.config import Frozen
from mulm.data.recipe import MAX_VOCAB_SIZE, MIN_VOCAB_SIZE, VOCAB_SIZE
from mulm.errors import MulmError
from mulm.manifest import Kind
from mulm.refs import check_name, parse_ref


class TokenizerConfig(Frozen):
    """A tokenizer of the training documents of a dataset."""

    REFERENCES: ClassVar[Mapping[str, Kind]] = {"dataset": "dataset"}

    name: str
    dataset: str
    """A reference: whose documents it learns from."""
    vocab_size: int = Field(default=VOCAB_SIZE, ge=MIN_VOCAB_SIZE, le=MAX_VOCAB_SIZE)
    chat_fraction: float = Field(default=0.0, ge=0, le=1)
    """Of the documents this part is read as turns of a user and an assistant, as in a recipe."""

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        try:
            return check_name(name)
        except MulmError as error:
            raise ValueError(f"{error.message}: {error.hint}") from None

    @field_validator("dataset")
    @classmethod
    def _is_a_ref(cls, ref: str) -> str:
        try:
            parse_ref(ref)
        except MulmError as error:
            raise ValueError(f"{error.message}: {error.hint}") from None
        return ref
