"""A file at an `http(s)://` address, known by its checksum.

Called by `remote`. Invariants: what has the name has the checksum; an interrupted transfer goes on
where it was; every wait has an end and every retry a limit.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mulm.atomic import make_folder, naming_full_disk, sync_file, sync_folder
from mulm.checksum import hash_file
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.remote_names import is_portable, key_of, shown_url
from mulm.errors import (
    AuthError,
    ConfigError,
    CorruptError,
    DeadlineError,
    MulmError,
    NotFoundError,
)
from mulm.model.hf_hub import Report
from mulm.model.hub_http import opener
from mulm.run_lock import path_lock

_TIMEOUT_S = 30.0
_N_TRIES = 4
_FIRST_WAIT_S = 1.0
"""Before the second try; twice as long before each further one."""

_CHUNK_BYTES = 1 << 20


def fetch_http(
    spec: SourceSpec,
    folder: Path,
    emit: Report,
    proxies: Mapping[str, str],
    sleep: Callable[[float], None] = time.sleep,
) -> SourceFile:
    """Bring one file, or find it. See `remote.fetch` for what is raised."""
    url, (name, sha256) = spec.path, promised(spec)
    path = folder / key_of(url, sha256) / name
    if not (path.is_file() and hash_file(path) == sha256):
        make_folder(path.parent)
        with path_lock(path.parent.with_suffix(".lock"), shown_url(url)):
            _Transfer(url, sha256, path, emit, proxies, sleep).run()
    return SourceFile(name, path)


def promised(spec: SourceSpec) -> tuple[str, str]:
    """The name and the checksum of the file, before it is here.

    Raises:
        ConfigError: the address names no file, or comes without a checksum.
    """
    url = spec.path
    if spec.sha256 is None:
        raise ConfigError(
            f"{shown_url(url)!r} comes without a checksum",
            hint="set `sha256:` of the source to that of the file (`sha256sum FILE` prints it)",
        )
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name or not is_portable(name):
        raise ConfigError(f"{shown_url(url)!r} names no file", hint="write the address of one file")
    return name, spec.sha256


class _Transfer:
    """Fills `path`, by way of a partial file beside it."""

    def __init__(
        self, url: str, sha256: str, path: Path, emit: Report,
        proxies: Mapping[str, str], sleep: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._url, self._shown, self._sha256 = url, shown_url(url), sha256
        self._path, self._partial = path, path.with_name(f"{path.name}.part")
        self._emit, self._proxies, self._sleep = emit, proxies, sleep

    def run(self) -> None:
        """Try, go on, try again; at last raise what was wrong."""
        error: MulmError | None = None
        for n_failed in range(_N_TRIES):
            if n_failed:
                self._sleep(_FIRST_WAIT_S * 2 ** (n_failed - 1))
            try:
                with naming_full_disk(self._path.parent):
                    was_resumed = self._append()
            except DeadlineError as failed:
                error = failed  # what came is kept; the next try goes on after it
                continue
            found = hash_file(self._partial)
            if found == self._sha256:
                return self._finish()
            self._partial.unlink()
            error = self._changed(found)
            if not was_resumed:
                break  # whole, and another file: asking again gives the same
        assert error is not None
        raise error

    def _finish(self) -> None:
        sync_file(self._partial)
        self._partial.replace(self._path)
        sync_folder(self._path.parent)

    def _append(self) -> bool:
        """Read to the end; whether it went on after what was there."""
        have_bytes = self._partial.stat().st_size if self._partial.exists() else 0
        with self._open(have_bytes) as answer:
            goes_on = bool(answer.status == 206)
            done_bytes = have_bytes if goes_on else 0
            length = answer.headers.get("Content-Length", "")
            total_bytes = done_bytes + int(length) if length.isdigit() else 0
            with self._partial.open("ab" if goes_on else "wb") as file:
                while chunk := self._read(answer):
                    done_bytes += file.write(chunk)
                    self._emit(self._path.name, done_bytes, total_bytes)
        if done_bytes < total_bytes:
            raise self._silent(f"it broke off after {done_bytes} of {total_bytes} bytes")
        return goes_on

    def _read(self, answer: Any) -> bytes:
        try:
            return bytes(answer.read(_CHUNK_BYTES))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._silent(error) from None

    def _open(self, have_bytes: int) -> Any:
        headers = {"User-Agent": "mulm"} | ({"Range": f"bytes={have_bytes}-"} if have_bytes else {})
        address = quote(self._url, safe="%/:=&?~#+!$,;'@()*[]")
        try:
            request = urllib.request.Request(address, headers=headers)  # noqa: S310 - http(s), see remote
            return opener(self._proxies).open(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # what is there is as long as the file, or longer: not it
                self._partial.unlink(missing_ok=True)
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._silent(error) from None

    def _refused(self, error: urllib.error.HTTPError) -> MulmError:
        if error.code in (401, 403):
            return AuthError(f"{self._shown} refuses ({error.code})", hint="is it public?")
        if error.code in (404, 410):
            return NotFoundError(
                f"{self._shown} does not exist (any more)", hint="check the address"
            )
        return self._silent(error)

    def _silent(self, reason: object) -> DeadlineError:
        return DeadlineError(
            f"{self._shown} cannot be read: {reason}", hint="try again: what was fetched is kept"
        )

    def _changed(self, found: str) -> CorruptError:
        return CorruptError(
            f"{self._shown} is not the file with the checksum {self._sha256}",
            hint=f"what came has {found}: if that is the right file, set it as `sha256:`",
        )
