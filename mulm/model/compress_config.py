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
COMPRESS_VERSION = 2
"""Counts the changes of the code that change what comes out."""

_PRUNED_DEFAULTS: Mapping[str, float] = {"keep": 0.5, "sample_tokens": 16384}


class CompressConfig(Frozen):
    """One smaller model."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"device"})
    REFERENCES: ClassVar[Mapping[str, str]] = {"model": "model"}

    model: str
    """A reference: `demo`, `demo@1` or `demo@live`."""
    to: str
    """`int8` or `int4`: bits of a weight; `pruned`: parts are cut out."""
    name: str | None = None
    """The result is published under this name; by default that of the model and `to`."""
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of the parameters that stays, for `pruned`; half if not given."""
    sample_tokens: Annotated[int, Field(ge=256)] | None = None
    """Training text on which `pruned` measures what matters; 16,384 if not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: object) -> object:
        """What `pruned` is by default stands in the config: said or not, it is the same run."""
        if not isinstance(values, Mapping) or values.get("to") != "pruned":
            return values
        given = {name: value for name, value in values.items() if value is not None}
        return {**_PRUNED_DEFAULTS, **given}

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
        if self.to != "pruned":
            for name in _PRUNED_DEFAULTS:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is for `pruned`; {self.to} keeps every weight: leave it away"
                    )
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
