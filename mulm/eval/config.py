"""The configuration of an evaluation: the file, `--set` and the HTTP body. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen
from mulm.errors import MulmError, UnknownNameError, nearest
from mulm.eval.suites.base import GenerationSuite
from mulm.eval.suites.registry import ALL, BITS_PER_BYTE, SUITES, require_suite
from mulm.manifest import Kind
from mulm.refs import parse_ref


class EvaluateConfig(Frozen):
    """One evaluation."""

    REFERENCES: ClassVar[Mapping[str, Kind]] = {"model": "model", "dataset": "dataset"}
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"data"})
    """What the files hold counts, not where they are: see `mulm.runs.identity`."""

    model: str
    """A reference: `demo`, `demo@1` or `demo@live`."""
    suites: tuple[str, ...] = Field(default=(BITS_PER_BYTE,), min_length=1)
    """What is measured: `bits_per_byte`, names of suites, or `all`."""
    data: Mapping[str, str] = {}
    """A suite's files, `{blimp: FILE}`: a file, a folder, a glob, a URL, or `hub`; by default the
    bundled sample where there is one. `gsm8k:shots` names those of the worked examples."""
    limit: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Items of each suite at most, the first ones; of BLiMP pairs of each paradigm."""
    shots: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Worked examples before a question, where a suite has any; by default its usual number."""
    add_bos: bool | None = None
    """Whether a context begins with the token that begins documents; by default as the tokenizer
    says, which is what lm-evaluation-harness does."""
    dataset: str | None = None
    """Bits per byte: whose validation text; by default that of the model's own dataset."""
    seq_len: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """Tokens read at once; by default as in training for bits per byte, else the model's window."""
    stride: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Bits per byte: new tokens per window; by default half of `seq_len`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products; by default what the hardware is fast at for bits per byte, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def suite_names(self) -> tuple[str, ...]:
        """The suites of items, each once, in the order asked for."""
        asked = SUITES if ALL in self.suites else self.suites
        return tuple(dict.fromkeys(name for name in asked if name in SUITES))

    @property
    def has_bits_per_byte(self) -> bool:
        """Whether bits per byte are asked for."""
        return BITS_PER_BYTE in self.suites or ALL in self.suites

    @field_validator("model", "dataset")
    @classmethod
    def _is_ref(cls, ref: str | None) -> str | None:
        return _valid(parse_ref, ref)

    @field_validator("suites")
    @classmethod
    def _are_suites(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(require_suite(name) for name in names)

    @model_validator(mode="after")
    def _has_data_for_suites(self) -> EvaluateConfig:
        with_shots = [n for n in self.suite_names if isinstance(SUITES[n], GenerationSuite)]
        known = (*self.suite_names, *(f"{name}:shots" for name in with_shots))
        for name in self.data:
            if name not in known:
                told = f"data for {name!r}, which is not evaluated"
                raise UnknownNameError(told, hint=nearest(name, known))
        return self


def _valid(check: object, text: str | None) -> str | None:
    assert callable(check)
    try:
        if text is not None:
            check(text)
    except MulmError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None
    return text
