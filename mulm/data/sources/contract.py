"""The contract suite of sources: what anybody's source must keep, checked on files of one's own.

Called by tests, ours and strangers': `assert violations(MySource(), spec) == []`. It reads the
files that the spec means, and damaged copies of them in a temporary folder. Invariant: it changes
no file that it was given.
"""

from __future__ import annotations

import pickle
import random
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part, RawDocument, Source, SourceFile, UnreadableError
from mulm.data.sources.decoding import is_valid
from mulm.errors import SchemaError

_MAX_BYTES = 1 << 20
"""Of a file this much is damaged: enough to see what happens."""


def violations(source: Source, spec: SourceSpec) -> list[str]:
    """What a source does against the contract, in words; an empty list if nothing.

    Args:
        source: The source.
        spec: One that means a few good files, small and large as the source knows them.
    """
    files = source.files(spec)
    return [
        *_of_listing(source, spec, files),
        *_of_travelling(source),
        *(said for file in files for said in _of_reading(source, spec, file)),
        *(said for file in files[:3] for said in _of_damage(source, spec, file)),
    ]


def _of_listing(source: Source, spec: SourceSpec, files: list[SourceFile]) -> Iterator[str]:
    names = [file.name for file in files]
    if not files:
        yield "`files` found none: it raises NotFoundError then"
    if files != source.files(spec):
        yield "`files` is not the same twice"
    if names != sorted(names):
        yield "`files` is not sorted by name"
    if len(set(names)) < len(names):
        yield "`files` gives a name twice"
    for name in names:
        if not _is_portable(name):
            yield f"{name!r} is no portable name: relative, with /, in NFC, without .."


def _is_portable(name: str) -> bool:
    is_plain = not name.startswith("/") and "\\" not in name and ".." not in name.split("/")
    return bool(name) and is_plain and is_valid(name) and unicodedata.is_normalized("NFC", name)


def _of_travelling(source: Source) -> Iterator[str]:
    try:
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - ours, made on this line
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        yield f"it cannot be pickled, so no other process can read: {error}"
        return
    if type(copy) is not type(source):
        yield "pickling makes something else of it"


def _of_reading(source: Source, spec: SourceSpec, file: SourceFile) -> Iterator[str]:
    try:
        source.check(spec, file)
        parts = source.parts(spec, file)
        whole = list(source.read(spec, file, Part()))
    except (SchemaError, UnreadableError) as error:
        yield f"{file.name!r} should be good, and: {error}"
        return
    if not parts or parts != source.parts(spec, file):
        yield f"{file.name!r}: `parts` is empty, or not the same twice"
    if whole != list(source.read(spec, file, Part())):
        yield f"{file.name!r}: `read` is not the same twice"
    in_parts = [document for part in parts for document in source.read(spec, file, part)]
    if in_parts != whole:
        yield f"{file.name!r}: its parts give other documents than the whole"
    yield from _of_documents(file.name, whole)
    for order in (reversed(parts), parts[:1]):
        for part in order:
            list(source.read(spec, file, part))  # a part needs none before it
    if not any(not document.reason for document in whole):
        yield f"{file.name!r} should be good, and has no document without a reason"


def _of_documents(name: str, documents: list[RawDocument]) -> Iterator[str]:
    for number, document in enumerate(documents, 1):
        if not isinstance(document, RawDocument):
            yield f"{name!r}, document {number}: is no RawDocument"
        elif not is_valid(document.text) or not is_valid(document.messages):
            yield f"{name!r}, document {number}: has lone surrogates, which no file can hold"


def _of_damage(source: Source, spec: SourceSpec, file: SourceFile) -> Iterator[str]:
    with file.path.open("rb") as content:
        head = content.read(_MAX_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        for what, damaged in _damaged(head):
            path = Path(folder) / file.path.name
            path.write_bytes(damaged)
            yield from _of_damaged_copy(source, spec, SourceFile(file.name, path), what)
        path.unlink()
        yield from _of_damaged_copy(source, spec, SourceFile(file.name, path), "vanished")


def _damaged(content: bytes) -> Iterator[tuple[str, bytes]]:
    noise = random.Random(0).randbytes(4096)
    yield "empty", b""
    yield "cut off in the middle", content[: len(content) // 2]
    yield "cut off at its last byte", content[:-1]
    yield "noise", noise
    yield "full of NULs", bytes(4096)
    yield "with noise in the middle", content[: len(content) // 2] + noise + content[-100:]
    yield "with noise at its end", content + noise


def _of_damaged_copy(
    source: Source, spec: SourceSpec, file: SourceFile, what: str
) -> Iterator[str]:
    where = f"{file.name!r}, {what}"
    try:
        source.check(spec, file)
    except SchemaError:
        pass
    except Exception as error:  # noqa: BLE001 - whatever a stranger's source raises is told
        yield f"{where}: `check` raises {error!r}, which is no SchemaError"
    try:
        for part in source.parts(spec, file):
            yield from _of_documents(where, list(source.read(spec, file, part)))
    except UnreadableError as error:
        if str(file.path.parent) in str(error):
            yield f"{where}: its error holds a path of this machine: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a stranger's source raises is told
        yield f"{where}: reading raises {error!r}, which is no UnreadableError"
