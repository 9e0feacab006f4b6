"""One source of a recipe: where text comes from, and how it is read."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from pydantic import Field, field_validator, model_validator

from mulm.config import Frozen
from mulm.errors import MulmError
from mulm.field_words import Sha256
from mulm.refs import check_name


class FileContent(Frozen):
    """What an uploaded file is to a build: its label, which says the format, and its bytes."""

    name: str
    sha256: Sha256
    size_bytes: int = Field(ge=0)


def _is_absent(value: object) -> bool:
    return value is None


class SourceSpec(Frozen):
    """Where text comes from: a path, or a file that was uploaded.

    `path` is a file, a folder or a glob, relative to where we run, or a URL (`https://`,
    `hf://datasets/...`, `s3://...`, whatever pyarrow or fsspec opens).
    """

    type: str = "auto"
    """A name of the registry, or `module:Class`; "auto" goes by the files' suffixes."""
    path: str = ""
    file: str | None = Field(default=None, exclude_if=_is_absent)
    """The id of an uploaded file (`file_...`)."""
    content: FileContent | None = Field(default=None, exclude_if=_is_absent)
    """What `file` means: a run is identified by it, so that the same bytes are the same run."""
    licence: str = "unknown"
    name: str | None = None
    """What statistics and mixing call it; by default sources are called by their number."""
    weight: float | None = Field(default=None, gt=0)
    """Its share of a training batch relative to other sources; all or none have one."""
    columns: Mapping[str, str] = {}
    """Which columns hold what, where the names are not the usual ones: `{text: content}`."""
    sha256: Sha256 | None = None
    """The checksum that a fetched file must have; required for http(s)."""
    sections: bool | None = None
    """Whether long documents are cut into sections; by default as the source's type has it."""

    held_out: bool = Field(default=False, exclude_if=operator.not_)
    """All of it is for validation, and then nothing of sources that are not."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> SourceSpec:
        if sum(map(bool, (self.path, self.file, self.content))) != 1:
            raise ValueError("give a source either `path` or `file`")
        return self

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                check_name(name)
            except MulmError as error:
                raise ValueError(f"{error.message}: {error.hint}") from None
        return name
