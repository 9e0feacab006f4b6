"""The configuration of making a model smaller: the file, `--set` and the HTTP body.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen
from mulm.errors import MulmError, UnknownNameError, nearest
from mulm.refs import check_name, parse_ref

Format = Literal["int8", "int4", "pruned"]
FORMATS: tuple[Format, ...] = ("int8", "int4", "pruned")
COMPRESS_VERSION = 1
"""Counts the changes of the code that change what comes out."""


class CompressConfig(Frozen):
    """One smaller model."""

    REFERENCES: ClassVar[Mapping[str, str]] = {"model": "model"}

    model: str
    """A reference: `demo`, `demo@1` or `demo@live`."""
    to: str
    """`int8` or `int4`: bits of a weight; `pruned`: parts are cut out."""
    name: str | None = None
    """The result is published under this name; by default that of the model and `to`."""
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of the parameters that stays, for `pruned`; half if not given."""
    sample_tokens: Annotated[int, Field(ge=256)] = 16384
    """Training text on which `pruned` measures what matters."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("to")
    @classmethod
    def _is_format(cls, to: str) -> str:
        if to not in FORMATS:
            raise UnknownNameError(f"no format {to!r}", hint=nearest(to, FORMATS))
        return to

    @field_validator("model")
    @classmethod
    def _is_ref(cls, ref: str) -> str:
        try:
            parse_ref(ref)
        except MulmError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None
        return ref

    @model_validator(mode="after")
    def _fits(self) -> CompressConfig:
        if self.keep is not None and self.to != "pruned":
            raise ValueError(f"keep is for `pruned`; {self.to} keeps every weight: leave it away")
        try:
            check_name(self.result_name)
        except MulmError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None
        return self

    @property
    def format(self) -> Format:
        """`to`, checked."""
        return cast(Format, self.to)

    @property
    def result_name(self) -> str:
        """What the result is published as."""
        return self.name or f"{parse_ref(self.model).name}-{self.to}"

    @property
    def kept_share(self) -> float:
        """`keep`, or half."""
        return self.keep or 0.5
