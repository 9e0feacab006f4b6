"""Files in object stores and other file systems: `s3://`, `gs://`, and what fsspec opens.

Called by `remote`. Credentials are those that the file system finds by itself, as its own tools do.
Invariants: a copy has its name when it is as long as the store said; a file that changed there is
another copy here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from mulm.atomic import atomic_file, make_folder
from mulm.checksum import hash_file
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.remote_names import chosen, key_of, shown_url, split_pattern
from mulm.errors import (
    AuthError,
    ConfigError,
    CorruptError,
    DeadlineError,
    MulmError,
    NotFoundError,
)
from mulm.model.hf_hub import Report

_CHUNK_BYTES = 4 << 20
_BY_ARROW = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"})


@dataclass(frozen=True, slots=True)
class _Stored:
    """A file there: its name below the source, its path in the store, and what tells versions."""

    name: str
    path: str
    size_bytes: int
    version: str


def fetch_store(spec: SourceSpec, folder: Path, emit: Report) -> list[SourceFile]:
    """Bring the files, or find them. See `remote.fetch` for what is raised."""
    with _naming(spec.path):
        system, root, pattern = _opened(spec.path)
        found = _listed(system, root, pattern, spec)
    if spec.sha256 and len(found) > 1:
        raise ConfigError(
            f"{shown_url(spec.path)!r} is {len(found)} files and has one checksum",
            hint="leave out sha256, or name one file",
        )
    return [SourceFile(f.name, _bring(system, f, spec, folder, emit)) for f in found]


def _opened(url: str) -> tuple[Any, str, str]:
    """A file system, the path in it before any wildcard, and the pattern after it."""
    parts = urlsplit(url)
    address = f"{parts.scheme}://{parts.netloc}{parts.path}"
    base, pattern = split_pattern(address)
    if parts.query:
        base = f"{base}?{parts.query}"
    if parts.scheme.lower() in _BY_ARROW:
        system, root = pafs.FileSystem.from_uri(base)
    else:
        # It comes with torch and has no types; only these URLs need it.
        foreign, root = importlib.import_module("fsspec").core.url_to_fs(base)
        system = pafs.PyFileSystem(pafs.FSSpecHandler(foreign))
    return system, root, pattern


def _listed(system: Any, root: str, pattern: str, spec: SourceSpec) -> list[_Stored]:
    info = system.get_file_info(root)
    if info.type == pafs.FileType.File and not pattern:
        return [_stored(system, info, info.base_name)]
    if info.type == pafs.FileType.NotFound:
        raise NotFoundError(f"{shown_url(spec.path)!r} does not exist", hint="check the address")
    selector = pafs.FileSelector(root, recursive=True)
    infos = [i for i in system.get_file_info(selector) if i.type == pafs.FileType.File]
    prefix = f"{root.strip('/')}/"
    by_name = {i.path.lstrip("/").removeprefix(prefix): i for i in infos}
    names = chosen(by_name, pattern, spec.type, spec.path)
    return [_stored(system, by_name[name], name) for name in names]


def _stored(system: Any, info: Any, name: str) -> _Stored:
    handler = getattr(system, "handler", None)
    foreign = getattr(handler, "fs", None)
    version = foreign.ukey(info.path) if foreign is not None else str(info.mtime_ns)
    return _Stored(name, info.path, info.size or 0, str(version))


def _bring(system: Any, stored: _Stored, spec: SourceSpec, folder: Path, emit: Report) -> Path:
    key = key_of(shown_url(spec.path), stored.path, stored.size_bytes, stored.version)
    path = folder / key / stored.name
    if not (path.is_file() and path.stat().st_size == stored.size_bytes):
        make_folder(path.parent)
        with _naming(spec.path), atomic_file(path) as target:
            _copy(system, stored, target, emit, spec.path)
    if spec.sha256 and (found := hash_file(path)) != spec.sha256:
        path.unlink()
        raise CorruptError(
            f"{shown_url(spec.path)} is not the file with the checksum {spec.sha256}",
            hint=f"what came has {found}: if that is the right file, set it as `sha256:`",
        )
    return path


def _copy(system: Any, stored: _Stored, target: Any, emit: Report, url: str) -> None:
    done_bytes = 0
    with system.open_input_stream(stored.path, compression=None) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            done_bytes += target.write(chunk)
            emit(stored.name, done_bytes, stored.size_bytes)
    if done_bytes != stored.size_bytes:
        raise CorruptError(
            f"{shown_url(url)}: {stored.name!r} has {done_bytes} bytes and not "
            f"{stored.size_bytes}: it changed while it was read",
            hint="run the same command again",
        )


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Raise an error that names the URL in the place of what a file system raises."""
    shown = shown_url(url)
    try:
        yield
    except MulmError:
        raise
    except FileNotFoundError:
        raise NotFoundError(
            f"{shown!r} does not exist (any more)", hint="check the address"
        ) from None
    except PermissionError as error:
        raise AuthError(f"{shown!r} refuses: {error}", hint="check the credentials") from None
    except (ImportError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"nothing here opens {shown!r}: {error}",
            hint="install the fsspec package for it, or copy the files here",
        ) from None
    except (OSError, pa.ArrowException) as error:
        if "ACCESS_DENIED" in str(error) or "AccessDenied" in str(error):
            raise AuthError(f"{shown!r} refuses: {error}", hint="check the credentials") from None
        hint = "check the address, the credentials and the network, and try again"
        raise DeadlineError(f"{shown!r} cannot be read: {error}", hint=hint) from None
