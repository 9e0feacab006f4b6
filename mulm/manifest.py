"""A manifest names an immutable version: what it is made of, and what it was made from.

Its id is the hash of its canonical JSON, so the same content from the same recipe has
the same id on any machine. Hence no times, host names or paths inside, and where a file is stored
compressed, the hash of what it holds stands in the id in the place of that of its bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import ValidationError

from mulm.config import Frozen, canonical_json
from mulm.errors import CorruptError

Kind = Literal["documents", "tokenizer", "dataset", "model"]

HOW_TO_MAKE: dict[Kind, str] = {
    "documents": "there are none yet: `mulm data build RECIPE` makes some",
    "tokenizer": "there are none yet: `mulm data build RECIPE` makes one with the dataset",
    "dataset": "there are none yet: `mulm data build RECIPE` makes one, `mulm demo` shows how",
    "model": "there are none yet: `mulm train CONFIG` or `mulm model import` makes one",
}
"""What whoever asks for a version is told where there is none of its kind."""

PREFIX_BY_KIND: dict[Kind, str] = {
    "documents": "doc",
    "tokenizer": "tok",
    "dataset": "ds",
    "model": "mdl",
}


class BlobEntry(Frozen):
    """One file of a version: its name inside the version, and the blob that holds it."""

    name: str
    sha256: str
    size_bytes: int
    rows: int = 0
    """Documents or tokens inside, where that means something."""
    content_sha256: str | None = None
    """Of what the file holds, where another compressor would give other bytes for the same."""

    def values(self) -> dict[str, Any]:
        """As it is stored; a field that is not set is left out, as in versions from before it."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def identity(self) -> dict[str, Any]:
        """What of it belongs to the version's id."""
        values = self.values()
        if self.content_sha256 is not None:
            del values["sha256"], values["size_bytes"]
        return values


class Manifest(Frozen):
    """One immutable version.

    `kind` "documents" is cleaned text, "dataset" is token shards ready for training.
    `parents` maps a role ("documents", "tokenizer", "dataset", "run") to a manifest or run id.
    """

    kind: Kind
    schema_version: Literal[1] = 1
    code_version: str
    config: dict[str, Any]
    parents: dict[str, str] = {}
    tokenizer_fingerprint: str | None = None
    licences: tuple[str, ...] = ()
    counts: dict[str, int | float] = {}
    blobs: tuple[BlobEntry, ...]

    def to_bytes(self) -> bytes:
        """The canonical JSON that is stored."""
        return self._canonical([entry.values() for entry in self.blobs])

    @property
    def id(self) -> str:
        """`ds_` (or `mdl_` ...) and the first 24 hex digits of the content's SHA-256."""
        content = self._canonical([entry.identity for entry in self.blobs])
        return f"{PREFIX_BY_KIND[self.kind]}_{hashlib.sha256(content).hexdigest()[:24]}"

    def _canonical(self, blobs: list[dict[str, Any]]) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude={"blobs"}) | {"blobs": blobs})

    def blob(self, name: str) -> BlobEntry:
        """The blob of that name.

        Raises:
            CorruptError: the version has no such file.
        """
        for entry in self.blobs:
            if entry.name == name:
                return entry
        raise CorruptError(f"{self.id} has no file {name!r}")


def is_manifest_id(text: object) -> bool:
    """Whether a text can be the id of a version; runs, which can be parents too, have others."""
    prefixes = "|".join(PREFIX_BY_KIND.values())
    return isinstance(text, str) and bool(re.fullmatch(rf"({prefixes})_[0-9a-f]{{24}}", text))


def parse_manifest(content: bytes, expected_id: str) -> Manifest:
    """Read stored JSON and check that it is the manifest that was asked for.

    Raises:
        CorruptError: the bytes are not that manifest.
    """
    try:
        manifest = Manifest.model_validate(json.loads(content))
    except (ValueError, ValidationError):
        raise _corrupt(expected_id) from None
    if manifest.id != expected_id:
        raise _corrupt(expected_id)
    return manifest


def _corrupt(manifest_id: str) -> CorruptError:
    return CorruptError(
        f"the manifest of {manifest_id} does not match its checksum",
        hint="run the command that made it again: it writes it anew",
    )
