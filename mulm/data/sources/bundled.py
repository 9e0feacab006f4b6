"""Corpora that come with the project, by name: `bundled://books`.

Called by `mulm.data.sources.remote`. Invariant: a name means one folder beside the project's code,
on every machine, and no other place.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.folders import find_files
from mulm.data.sources.remote_names import suffixes_for
from mulm.errors import NotFoundError, nearest

CORPORA = {"books": Path(__file__).resolve().parents[3] / "corpora" / "books"}
"""Their licences and origins are in `corpora/SOURCES.md`."""

SCHEME = "bundled"


def bundled_files(spec: SourceSpec) -> list[SourceFile]:
    """The files of a corpus.

    Raises:
        NotFoundError: there is none of that name, or this installation came without its files.
    """
    parts = urlsplit(spec.path)
    name = f"{parts.netloc}{parts.path}".rstrip("/")
    if name not in CORPORA:
        raise NotFoundError(f"no bundled corpus {name[:64]!r}", hint=nearest(name[:64], CORPORA))
    return find_files(str(CORPORA[name]), suffixes_for(spec.type))
