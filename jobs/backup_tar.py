"""The file of a backup: a tar whose last two members are the checksums of all others.

Written by `jobs.backup`, read by `jobs.restore`.

    backup.json                  what it is, and how many bytes the rest has
    ledger.sqlite                the database, as of one moment
    key_secret                   what the digests of keys in it were made with
    store/blobs/ab/abcd...       files by their hash
    store/manifests/ds_....json  versions
    store/steps/<key>.json       markers of finished steps
    runs/<run id>/...            checkpoints and what else lies in a run's folder
    checksums.json               the SHA-256 of each member
    checksums.sha256             of checksums.json

Invariants: a file without its last member is torn and refused; what a backup says is not trusted:
only regular files of these names are read, and no byte is used before its checksum was seen.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, ValidationError

from mulm.config import Frozen, canonical_json
from mulm.errors import CorruptError, NotFoundError
from mulm.manifest import is_manifest_id

LEDGER, KEY_SECRET = "ledger.sqlite", "key_secret"
_HEADER, _SUMS, _SEAL = "backup.json", "checksums.json", "checksums.sha256"
_SMALL_BYTES = 1 << 28
"""More than the checksums of a million files."""
_CHUNK_BYTES = 4 << 20
_BLOB = re.compile(r"store/blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_MANIFEST = re.compile(r"store/manifests/([^/]+)\.json")
_STEP = re.compile(r"store/steps/[0-9a-f]{64}\.json")
_RUN = re.compile(r"runs/run_[0-9a-z]+(/[A-Za-z0-9_=+@-][A-Za-z0-9._=+@-]{0,200}){1,6}")


class Header(Frozen):
    """What a backup says of itself."""

    format: Literal[1] = 1
    code_version: str
    created_s: float
    size_bytes: Annotated[int, Field(ge=0)]
    """Of all files in it."""


class Writer:
    """Puts files into a backup; `seal` makes it one, the end of the block ends the file."""

    def __init__(self, target: BinaryIO, header: Header) -> None:
        self._tar = tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._sums: dict[str, str] = {}
        self._put(_HEADER, canonical_json(header.model_dump(mode="json")))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def add(self, name: str, source: BinaryIO, size_bytes: int) -> str:
        """Put the first `size_bytes` of a file under a name; returns their SHA-256.

        Raises:
            CorruptError: the file has fewer.
        """
        assert is_member(name), name
        info, hashing = tarfile.TarInfo(name), _Hashing(source)
        info.size, info.mode = size_bytes, 0o600
        try:
            self._tar.addfile(info, hashing)
        except OSError as error:
            if error.errno is not None:  # a disk's, not of what was read
                raise
            raise CorruptError(f"{name!r} became shorter while it was read") from None
        self._sums[name] = hashing.hexdigest()
        return self._sums[name]

    def seal(self) -> None:
        """Write the checksums: without them it is no backup."""
        sums = canonical_json(self._sums)
        self._put(_SUMS, sums)
        self._put(_SEAL, hashlib.sha256(sums).hexdigest().encode())

    def _put(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        self._tar.addfile(info, io.BytesIO(content))
        self._sums[name] = hashlib.sha256(content).hexdigest()


class Reader:
    """The files of a backup, in their order; see `opened`."""

    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path, self._tar = path, tar
        self._sums: dict[str, str] = {}
        self.header = self._header()

    def members(self) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        """Name, size and bytes of each file; the bytes must be read before the next one.

        When this ends, all checksums have been compared.

        Raises:
            CorruptError: it is torn or damaged; nothing of it may be used.
        """
        left_bytes = self.header.size_bytes
        while (member := self._tar.next()) is not None:
            if member.name == _SUMS:
                self._check(self._small(member))
                return
            left_bytes -= member.size
            is_allowed = is_member(member.name) and member.name not in self._sums
            if not (member.isreg() and is_allowed) or left_bytes < 0:
                raise self._torn(f"{member.name[:80]!r} does not belong there")
            yield member.name, member.size, self._chunks(member)
            if member.name not in self._sums:
                raise AssertionError(f"{member.name} was not read")
        raise self._torn("its end is missing")

    def _header(self) -> Header:
        first = self._tar.next()
        if first is None or first.name != _HEADER:
            raise self._torn("it does not begin as one")
        try:
            return Header.model_validate_json(self._small(first))
        except ValidationError:
            raise self._torn("another version of µLM made it, or none") from None

    def _chunks(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        digest, source = hashlib.sha256(), self._tar.extractfile(member)
        assert source is not None, "a regular file"
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            yield chunk
        self._sums[member.name] = digest.hexdigest()
        if (blob := _BLOB.fullmatch(member.name)) and blob.group(2) != digest.hexdigest():
            raise self._torn(f"{member.name!r} does not match its checksum")

    def _check(self, sums: bytes) -> None:
        seal = self._tar.next()
        if seal is None or seal.name != _SEAL:
            raise self._torn("its end is missing")
        if self._small(seal) != hashlib.sha256(sums).hexdigest().encode():
            raise self._torn("its checksums are damaged")
        told = json.loads(sums)
        wrong = sorted(
            name for name in told.keys() | self._sums if told.get(name) != self._sums.get(name)
        )
        if wrong:
            raise self._torn(f"{wrong[0]!r} does not match its checksum")

    def _small(self, member: tarfile.TarInfo) -> bytes:
        if not member.isreg() or member.size > _SMALL_BYTES:
            raise self._torn(f"{member.name[:80]!r} does not belong there")
        source = self._tar.extractfile(member)
        assert source is not None, "a regular file"
        content = source.read()
        if member.name == _HEADER:
            self._sums[member.name] = hashlib.sha256(content).hexdigest()
        return content

    def _torn(self, why: str) -> CorruptError:
        return torn(self._path, why)


@contextmanager
def opened(path: Path) -> Iterator[Reader]:
    """A backup to read.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is no backup, torn or damaged.
    """
    if not path.is_file():
        raise NotFoundError(f"no such file: {str(path)!r}", hint="check the path")
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            yield Reader(path, tar)
    except (tarfile.TarError, EOFError) as error:
        raise torn(path, f"it cannot be read: {error}") from None


def torn(path: Path, why: str) -> CorruptError:
    """Why a file is refused."""
    return CorruptError(
        f"{str(path)!r} is no whole backup: {why}",
        hint="copy it again from where it was made, or take another one; nothing was changed",
    )


def is_member(name: str) -> bool:
    """Whether a backup may hold a file of that name."""
    if name in (_HEADER, LEDGER, KEY_SECRET):
        return True
    if found := _MANIFEST.fullmatch(name):
        return is_manifest_id(found.group(1))
    return any(pattern.fullmatch(name) for pattern in (_BLOB, _STEP, _RUN))


class _Hashing(io.RawIOBase):
    """Reads a file and hashes what it read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source, self._digest = source, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._digest.update(chunk)
        return chunk

    def hexdigest(self) -> str:
        """The SHA-256 of what was read."""
        return self._digest.hexdigest()
