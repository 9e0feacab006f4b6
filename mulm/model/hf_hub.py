"""Repositories of a hub that speaks Hugging Face's HTTP: files by name, each one checked.

Called by `jobs.import_model` and `mulm.data.sources.remote_hub`. Invariants: a file has its name
when its size and checksum are those that the hub promised; an interrupted download goes on where it
was; one process at a time fills a folder; the token goes to the hub alone, never to where it
redirects; nothing but the named files is fetched.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mulm.atomic import make_folder, naming_full_disk, sync_file, sync_folder
from mulm.errors import (
    AuthError,
    ConfigError,
    CorruptError,
    DeadlineError,
    MulmError,
    NotFoundError,
    UnreachableError,
)
from mulm.model.hub_http import LOOPBACK, opener, proxies_of
from mulm.run_lock import path_lock

ENDPOINT = "https://huggingface.co"
_TIMEOUT_S = 30.0
_N_TRIES = 4
_FIRST_WAIT_S = 1.0
"""Before the second try; twice as long before each further one."""

_CHUNK_BYTES = 1 << 20
_LIST_BYTES = 50_000_000
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
_TOKEN = re.compile(r"[!-~]*")

Report = Callable[[str, int, int], None]
"""Told now and then: the file, bytes there, bytes of the whole."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the hub promises of a file: its size, and the SHA-256 or git's SHA-1 of it."""

    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""

    def matches(self, path: Path) -> bool:
        """Whether a local file is that file, whole."""
        if not path.is_file() or path.stat().st_size != self.size_bytes:
            return False
        digest = hashlib.sha256()
        if not self.sha256:
            digest = hashlib.sha1(f"blob {self.size_bytes}\0".encode(), usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == (self.sha256 or self.git_sha1)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a repository at one commit."""

    repository: str
    commit: str
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True, slots=True)
class Hub:
    """A client of one hub."""

    endpoint: str = ENDPOINT
    token: str = field(default="", repr=False)
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Addresses by scheme, and under `no` the hosts that are asked without one."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False, compare=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Hub:
        """By `HF_ENDPOINT`, `HF_TOKEN`, and `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.

        Raises:
            ConfigError: the endpoint is no HTTPS address, except on loopback; the token is no word.
        """
        endpoint = (env.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")
        parts = urllib.parse.urlsplit(endpoint)
        is_local = parts.scheme == "http" and parts.hostname in LOOPBACK
        if not parts.hostname or (parts.scheme != "https" and not is_local):
            raise ConfigError(
                f"HF_ENDPOINT {endpoint!r} is no HTTPS address", hint=f"such as {ENDPOINT}"
            )
        token = env.get("HF_TOKEN", "").strip()
        if not _TOKEN.fullmatch(token):
            raise ConfigError("HF_TOKEN is not one word of ASCII", hint="such as hf_abc123")
        return cls(endpoint, token, proxies_of(env))

    def snapshot(self, repository: str, revision: str = "main") -> Snapshot:
        """What a repository holds at a branch, tag or commit.

        A repository is a model, `owner/name`, or a dataset, `datasets/owner/name`.

        Raises:
            NotFoundError: no such repository or revision.
            AuthError: the hub wants a token, or another one.
            UnreachableError: no connection to it comes about.
            DeadlineError: it does not answer.
        """
        kind = "" if repository.startswith("datasets/") else "models/"
        url = f"{self.endpoint}/api/{kind}{repository}/revision/{revision}?blobs=true"
        with self._open(url) as answer, _naming_silence(self.endpoint):
            content = answer.read(_LIST_BYTES)
        try:
            told = json.loads(content)
            files = {str(entry["rfilename"]): _remote_file(entry) for entry in told["siblings"]}
            commit = str(told["sha"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise CorruptError(
                f"{self.endpoint} did not answer as a hub does",
                hint="HF_ENDPOINT names the address of a hub",
            ) from None
        if not _REVISION.fullmatch(commit):
            raise CorruptError(
                f"{self.endpoint} names the commit {commit!r}", hint="a hub gives a git checksum"
            )
        return Snapshot(repository, commit, files)

    def download(
        self, snapshot: Snapshot, names: Collection[str], folder: Path, report: Report
    ) -> None:
        """Bring files into a folder; those that are there and whole are kept.

        Raises:
            NotFoundError: the snapshot has no file of that name.
            CorruptError: what came is not what was promised, several times.
            UnreachableError, DeadlineError: no connection to the hub comes about, or no answer.
            ConflictError: another process fills the folder.
            NoSpaceError: the disk is full.
        """
        make_folder(folder)
        with path_lock(folder.with_name(f"{folder.name}.lock"), str(folder)):
            for name in sorted(names):
                if name not in snapshot.files:
                    raise NotFoundError(
                        f"{snapshot.repository} has no file {name!r}",
                        hint="its index names it: the repository is not whole",
                    )
                promised = snapshot.files[name]
                if not promised.matches(folder / name):
                    where = f"{snapshot.repository}/resolve/{snapshot.commit}"
                    url = f"{self.endpoint}/{where}/{urllib.parse.quote(name)}"
                    self._fetch(url, promised, folder / name, report)

    def _fetch(self, url: str, promised: RemoteFile, path: Path, report: Report) -> None:
        partial = path.with_name(f"{path.name}.part")
        other = CorruptError(
            f"{path.name} is not the file that the hub promised",
            hint="try again; what was fetched of it is deleted",
        )
        error: MulmError = other
        for n_failed in range(_N_TRIES):
            if n_failed:
                self.sleep(_FIRST_WAIT_S * 2 ** (n_failed - 1))
            try:
                with naming_full_disk(path.parent):
                    self._append(url, promised, partial, report)
            except (DeadlineError, UnreachableError) as failed:
                error = failed  # what came is kept; the next try goes on after it
                continue
            if promised.matches(partial):
                sync_file(partial)
                partial.replace(path)
                sync_folder(path.parent)
                return
            partial.unlink(missing_ok=True)
            error = other
        raise error

    def _append(self, url: str, promised: RemoteFile, partial: Path, report: Report) -> None:
        have_bytes = partial.stat().st_size if partial.exists() else 0
        if have_bytes >= promised.size_bytes:
            have_bytes = 0
        headers = {"Range": f"bytes={have_bytes}-"} if have_bytes else {}
        with self._open(url, headers) as answer:
            goes_on = answer.status == 206
            done_bytes = have_bytes if goes_on else 0
            with partial.open("ab" if goes_on else "wb") as file:
                for chunk in _chunks(answer, self.endpoint):
                    done_bytes += file.write(chunk)
                    report(partial.name.removesuffix(".part"), done_bytes, promised.size_bytes)
                    if done_bytes > promised.size_bytes:
                        return
        if done_bytes < promised.size_bytes:
            raise _silent(self.endpoint, f"it broke off after {done_bytes} bytes")

    def _open(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        request = urllib.request.Request(url, headers={"User-Agent": "mulm", **(headers or {})})  # noqa: S310 - checked by from_env
        if self.token:
            # Not passed on when the hub redirects to where its files lie; see `hub_http`.
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with _naming_silence(self.endpoint):
                return opener(self.proxies).open(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            raise self._explain(error, url) from None

    def _explain(self, error: urllib.error.HTTPError, url: str) -> MulmError:
        path = urllib.parse.urlsplit(url).path
        error.close()
        if error.code in (401, 403):
            return AuthError(
                f"{self.endpoint} refuses {path!r}",
                hint="set HF_TOKEN to a token that may read it; it may also not exist",
            )
        if error.code == 404:
            return NotFoundError(f"{self.endpoint} has no {path!r}", hint="check name and revision")
        return _silent(self.endpoint, error)


def parse_source(text: str) -> tuple[str, str]:
    """`owner/name` or `owner/name@revision` as repository and revision.

    Raises:
        NotFoundError: it is neither that nor a folder.
    """
    repository, at, revision = text.partition("@")
    if not at:
        revision = "main"
    if not _REPOSITORY.fullmatch(repository) or not _REVISION.fullmatch(revision):
        raise NotFoundError(
            f"{text!r} is neither a folder nor the id of a model on a hub",
            hint="a folder with config.json and model.safetensors, or owner/name[@revision]",
        )
    return repository, revision


def _chunks(answer: Any, endpoint: str) -> Iterator[bytes]:
    while True:
        with _naming_silence(endpoint):
            chunk = answer.read(_CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def _naming_silence(endpoint: str) -> Iterator[None]:
    """Raise ours in the place of what no connection, a broken one, or a nonsense answer raises."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError) and not isinstance(error.reason, TimeoutError):
            raise UnreachableError(
                f"{endpoint} cannot be reached: {error.reason}",
                hint="check the network and its proxy; HF_ENDPOINT names another address",
            ) from None
        raise _silent(endpoint, error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _silent(endpoint, error) from None


def _silent(endpoint: str, reason: object) -> DeadlineError:
    return DeadlineError(
        f"{endpoint} did not answer: {reason}",
        hint="try again: what was fetched is kept; HF_ENDPOINT names another address",
    )


def _remote_file(entry: Mapping[str, Any]) -> RemoteFile:
    large = entry.get("lfs") or {}
    return RemoteFile(
        int(entry.get("size") or 0), str(large.get("sha256", "")), str(entry.get("blobId", ""))
    )
