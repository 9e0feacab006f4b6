"""Sources that are uploaded files: blobs of the store, under the names that clients gave them.

Called by whoever lists the files of a recipe. Invariant: a client's name decides the format and is
a label of documents, never a path.
"""

from __future__ import annotations

import secrets
import unicodedata
from pathlib import Path

from mulm.atomic import make_folder
from mulm.data.source_spec import FileContent
from mulm.data.sources.base import SourceFile
from mulm.data.sources.formats import COMPRESSIONS, FORMATS, suffix_of
from mulm.manifest import BlobEntry
from mulm.store import Store

_SUFFIXES = (*FORMATS, ".tokens", ".raw")


def uploaded_file(content: FileContent, store: Store) -> SourceFile:
    """The file as a source reads it.

    Raises:
        NotFoundError: its bytes are not in the store any more.
        CorruptError: they are damaged.
    """
    name = unicodedata.normalize("NFC", content.name)
    blob = store.path(
        BlobEntry(name=name[:64], sha256=content.sha256, size_bytes=content.size_bytes)
    )
    link = store.downloads / "uploaded" / f"{content.sha256}{_suffixes(name)}"
    if not link.is_symlink() or link.readlink() != blob:
        _point(link, blob)
    return SourceFile(name, link)


def _suffixes(name: str) -> str:
    """What readers go by: of a name only what we know ourselves."""
    suffix = suffix_of(name)
    packed = (end for end in COMPRESSIONS if name.lower().endswith(end))
    return (suffix if suffix in _SUFFIXES else "") + next(packed, "")


def _point(link: Path, blob: Path) -> None:
    make_folder(link.parent)
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(blob)
    temporary.replace(link)
