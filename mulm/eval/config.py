"""The configuration of an evaluation: the file, `--set` and the HTTP body. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from mulm.config import Frozen
from mulm.errors import MulmError
from mulm.manifest import Kind
from mulm.refs import parse_ref


class EvaluateConfig(Frozen):
    """One evaluation."""

    REFERENCES: ClassVar[Mapping[str, Kind]] = {"model": "model", "dataset": "dataset"}

    model: str
    """A reference: `demo`, `demo@1` or `demo@live`."""
    dataset: str | None = None
    """Whose validation text to use; by default that of the model's own dataset."""
    seq_len: Annotated[int, Field(ge=2)] | None = None
    """Tokens read at once; by default as in training."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """New tokens per window; by default half of `seq_len`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("model", "dataset")
    @classmethod
    def _is_ref(cls, ref: str | None) -> str | None:
        return _valid(parse_ref, ref)


def _valid(check: object, text: str | None) -> str | None:
    assert callable(check)
    try:
        if text is not None:
            check(text)
    except MulmError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None
    return text
