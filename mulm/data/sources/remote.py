"""Sources behind a URL: their files brought into a folder, each once, each checked.

Called by whoever lists the files of a recipe, with a folder that is kept between builds. Five kinds
of URL: `http(s)://` with a checksum, `hf://datasets/...` on a hub, `bundled://`, `file://`, and
whatever pyarrow or fsspec opens. Invariants: a file has its name when it is whole; what is there is
not fetched again; names are those that the URL gives, the same on every machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.bundled import SCHEME, bundled_files
from mulm.data.sources.folders import find_files
from mulm.data.sources.remote_http import fetch_http
from mulm.data.sources.remote_hub import fetch_hub
from mulm.data.sources.remote_names import suffixes_for
from mulm.data.sources.remote_store import fetch_store
from mulm.errors import ConfigError
from mulm.model.hf_hub import Hub, Report
from mulm.model.hub_http import proxies_of

_HTTP = ("http", "https")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_remote(path: str) -> bool:
    """Whether a source's path is a URL."""
    return bool(_URL.match(path))


def is_http(path: str) -> bool:
    """Whether it is one of `http(s)://`, whose files are known by their checksums."""
    return is_remote(path) and urlsplit(path).scheme.lower() in _HTTP


def fetch(
    spec: SourceSpec,
    folder: Path,
    emit: Report = lambda *_: None,
    env: Mapping[str, str] | None = None,
) -> list[SourceFile]:
    """The files of a URL, sorted by name; those that `folder` has already are not fetched.

    Args:
        spec: The source; its path is a URL.
        folder: Where fetched files are kept.
        emit: Told the file, the bytes there and the bytes of the whole (0: unknown) now and then.
        env: `HF_ENDPOINT`, `HF_TOKEN` and the proxies; by default the process's.

    Raises:
        ConfigError: the URL lacks its checksum, or nothing opens such a one.
        NotFoundError: there is no such file.
        AuthError: it is not ours to read.
        CorruptError: it is not the file that was promised.
        DeadlineError: no answer, several times.
        NoSpaceError: the disk is full.
    """
    env = os.environ if env is None else env
    parts = urlsplit(spec.path)
    scheme = parts.scheme.lower()
    if scheme in _HTTP:
        return [fetch_http(spec, folder, emit, proxies_of(env))]
    if scheme == "hf":
        return fetch_hub(spec, folder, emit, Hub.from_env(env))
    if scheme == SCHEME:
        return bundled_files(spec)
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{spec.path!r} names a host", hint="write file:///folder/file")
        return find_files(unquote(parts.path), suffixes_for(spec.type))
    return fetch_store(spec, folder, emit)
