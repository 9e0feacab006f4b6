"""The origin: where a store fetches what it lacks, such as object storage.

`Store` asks it for blobs and manifests; `mulm.upload` fills one. Invariants: an origin is not
trusted: the store hashes all that comes from it before it is used; manifests come after their
blobs; what was cut short is told by its size, and uploaded again; reading fails as not found, also
where the other side refuses, since whoever reads can do without.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mulm.errors import MulmError, NotFoundError, UnreachableError
from mulm.origin_trouble import shown, trouble

CHUNK_BYTES = 4 << 20
_RETRIES_S = (0.5, 2.0)
"""How long to wait before the second and the third attempt at a request."""
_WHOLE_AT_ONCE = frozenset({"s3", "gcs", "abfs"})
"""Filesystems of pyarrow on which a file appears only when it is closed, and a move is a copy of
limited size. An upload that breaks may close it early, but never in its full size."""
_OPENED_LATE = frozenset({"s3", "gs", "gcs", "abfs", "abfss"})
"""Schemes of pyarrow whose opening may ask the network."""


class Origin(Protocol):
    """Where blobs and manifests can be fetched."""

    def fetch(self, sha256: str) -> Iterator[bytes]:
        """The bytes of a blob in bounded pieces. Raises NotFoundError."""

    def manifest(self, manifest_id: str) -> bytes:
        """The stored JSON of a version. Raises NotFoundError."""


class FsOrigin:
    """The store's layout in a folder of any filesystem that pyarrow or fsspec opens.

    Object storage is opened when it is first needed, so that what lies here can be used while it
    is away.

    Args:
        url: `s3://bucket/folder`, `gs://...`, `file:///...`, or one of fsspec's schemes.

    Raises:
        ConfigError: the URL names no filesystem that can be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = shown(url)
        self._given = url
        if url.partition("://")[0] not in _OPENED_LATE:
            _ = self._place

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The filesystem, and the path of the store in it."""
        return _open(self._given)

    def fetch(self, sha256: str) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        path = _blob_path(sha256)
        with self._reading(path, lambda files, whole: files.open_input_stream(whole)) as stream:
            while chunk := self._reading(
                path, lambda _files, _whole: stream.read(CHUNK_BYTES), is_retried=False
            ):
                yield chunk

    def manifest(self, manifest_id: str) -> bytes:
        """See `Origin.manifest`."""
        path = _manifest_path(manifest_id)
        with self._reading(path, lambda files, whole: files.open_input_stream(whole)) as stream:
            content: bytes = self._reading(
                path, lambda _files, _whole: stream.read(), is_retried=False
            )
        return content

    def has_blob(self, sha256: str, size_bytes: int) -> bool:
        """Whether a file of that size is there. Raises as `put_blob` does."""
        return self._size(_blob_path(sha256)) == size_bytes

    def has_manifest(self, manifest_id: str, size_bytes: int | None = None) -> bool:
        """Whether the version is there, in that size if one is given; then all of its blobs are.

        Raises as `put_blob` does.
        """
        found = self._size(_manifest_path(manifest_id))
        return found is not None and size_bytes in (None, found)

    def put_blob(self, sha256: str, source: Path) -> None:
        """Upload the file of a blob.

        Raises:
            UnreachableError, AuthError: the server is not there, or refuses.
            ConfigError: it cannot be written there for another reason.
        """
        with source.open("rb") as file:
            self._write(_blob_path(sha256), iter(lambda: file.read(CHUNK_BYTES), b""))

    def put_manifest(self, manifest_id: str, content: bytes) -> None:
        """Upload a version; call it after its blobs are there. Raises as `put_blob` does."""
        self._write(_manifest_path(manifest_id), iter([content]))

    def _write(self, inner: str, chunks: Iterator[bytes]) -> None:
        files, root = self._place
        path = f"{root}/{inner}"
        is_whole = files.type_name in _WHOLE_AT_ONCE
        target = path if is_whole else f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            files.create_dir(path.rpartition("/")[0], recursive=True)
            with files.open_output_stream(target) as stream:
                for chunk in chunks:
                    stream.write(chunk)
            if not is_whole:
                files.move(target, path)
        except BaseException as error:
            if not is_whole:
                with suppress(OSError):
                    files.delete_file(target)
            if isinstance(error, OSError):
                raise self._trouble("written", error) from None
            raise

    def _size(self, inner: str) -> int | None:
        files, root = self._place
        try:
            size: int | None = files.get_file_info(f"{root}/{inner}").size
        except OSError as error:
            raise self._trouble("read", error) from None
        return size

    def _reading(
        self, inner: str, read: Callable[[Any, str], Any], *, is_retried: bool = True
    ) -> Any:
        """Do a request, again after a pause when the connection breaks."""
        for pause_s in (*_RETRIES_S, None) if is_retried else (None,):
            try:
                files, root = self._place
                found = read(files, f"{root}/{inner}")
            except FileNotFoundError:
                raise NotFoundError(f"{inner!r} is not in the store at {self.url!r}") from None
            except (OSError, UnreachableError) as error:
                if pause_s is None:
                    told = self._trouble("read", error)
                    raise NotFoundError(told.message, hint=told.hint) from None
            except MulmError as error:  # it is refused, or cannot be opened
                raise NotFoundError(error.message, hint=error.hint) from None
            else:
                return found
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def _trouble(self, done: str, error: object) -> MulmError:
        hint = "check the credentials, and that the bucket or folder exists and is not full"
        return trouble(f"the store at {self.url!r} cannot be {done}", error, hint)


def _blob_path(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _manifest_path(manifest_id: str) -> str:
    return f"manifests/{manifest_id}.json"


def _open(url: str) -> tuple[Any, str]:
    """A filesystem and the path in it; what pyarrow does not know is asked of fsspec."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    scheme, separator, _ = url.partition("://")
    reason = "" if separator else "it has no scheme"
    ways = [url] if scheme == "file" else [url, f"fsspec+{url}"]
    for way in ways if separator else []:
        try:
            files, root = FileSystem.from_uri(way)
            return files, root.rstrip("/")
        except (ArrowException, ValueError, ImportError, OSError) as error:
            reason = reason or str(error)
    raise trouble(
        f"{shown(url)!r} cannot be opened as a store",
        reason,
        "use s3://bucket/folder, gs://bucket/folder, file:///folder, or a scheme of fsspec"
        " whose package is installed",
    )
