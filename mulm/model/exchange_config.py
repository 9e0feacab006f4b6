"""The configs of runs that take models in and give them out, for programs of others.

Read by the HTTP API and by `jobs.model_export` and `jobs.model_import`. Light floor: no torch.
Invariant: nothing here names a place on the machine that does the work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen
from mulm.data.source_spec import FileContent
from mulm.errors import MulmError
from mulm.manifest import Kind
from mulm.model.hf_hub import parse_source
from mulm.refs import check_name, parse_ref

EXCHANGE_VERSION = 1
"""Rises when the same model would be written otherwise."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MOST_FILES = 256
"""Of one model, in an import of uploaded files."""


class ExportConfig(Frozen):
    """One model as a file for other programs."""

    REFERENCES: ClassVar[Mapping[str, Kind]] = {"model": "model"}

    model: str
    """A reference."""
    to: Literal["hf", "gguf"]
    """A Hugging Face folder, as a tar file, or a GGUF file."""
    dtype: Literal["stored", "fp32", "fp16", "bf16"] | None = None
    """hf: the type of the weights; as they are stored by default."""
    quant: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None = None
    """gguf: the type of the weights; f16 by default."""

    @field_validator("model")
    @classmethod
    def _is_ref(cls, ref: str) -> str:
        return _checked(parse_ref, ref)

    @model_validator(mode="after")
    def _fits(self) -> ExportConfig:
        if self.to == "hf" and self.quant is not None:
            raise ValueError("quant is for gguf; dtype says the type of hf weights")
        if self.to == "gguf" and self.dtype is not None:
            raise ValueError("dtype is for hf; quant says the type of gguf weights")
        return self


class ImportConfig(Frozen):
    """One model of others: from a hub, or of files that were uploaded."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"files"})

    name: str
    """What it is called here."""
    hub: str | None = None
    """`owner/name`, or `owner/name@revision`; the same config is the same run, so name a revision
    where it moves."""
    files: Mapping[str, str] = Field(default={}, max_length=MOST_FILES)
    """The files of a Hugging Face folder by their names there, each an uploaded file's id."""
    contents: Mapping[str, FileContent] = Field(default={}, max_length=MOST_FILES)
    """What `files` mean; filled in when the run begins."""

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        return _checked(check_name, name)

    @field_validator("hub")
    @classmethod
    def _is_on_a_hub(cls, hub: str | None) -> str | None:
        return None if hub is None else _checked(parse_source, hub)

    @field_validator("files", "contents")
    @classmethod
    def _are_names(cls, files: Mapping[str, object]) -> Mapping[str, object]:
        for name in files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name[:64]!r} is no name of a file in such a folder")
        return files

    @model_validator(mode="after")
    def _has_one_source(self) -> ImportConfig:
        if (self.hub is None) == (not self.files and not self.contents):
            raise ValueError("name a model on a hub, or files that were uploaded")
        return self


def _checked(check: object, text: str) -> str:
    assert callable(check)
    try:
        check(text)
    except MulmError as error:
        raise ValueError(f"{error.message}; {error.hint}") from None
    return text
