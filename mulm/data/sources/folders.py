"""Files, folders and globs: the files that a path means, under names that travel.

Called by the `files` of every source. Invariant: names are the same on every machine: relative,
with forward slashes, in NFC, whatever the file system holds them in.
"""

from __future__ import annotations

import glob
import unicodedata
from collections.abc import Collection
from pathlib import Path

from mulm.data.sources.base import SourceFile
from mulm.data.sources.formats import COMPRESSIONS, suffix_of
from mulm.errors import NotFoundError


def find_files(path: str, suffixes: Collection[str]) -> list[SourceFile]:
    """What a file, a folder or a glob such as `notes/**/*.md` means, sorted by name.

    Of a folder we take what has one of `suffixes`, also compressed, and is not hidden. A file or
    a glob is taken at its word.

    Raises:
        NotFoundError: there is none.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return [SourceFile(_portable(Path(given.name)), given)]
    if given.is_dir():
        root, found = given, _below(given, suffixes)
    else:
        root, found = _fixed_part(given), [Path(p) for p in glob.glob(str(given), recursive=True)]
    files = [SourceFile(_portable(p.relative_to(root)), p) for p in found if p.is_file()]
    if not files:
        raise _not_found(path, given, suffixes)
    return sorted(files, key=lambda file: (file.name, file.path))


def _below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    found = (path for path in folder.rglob("*") if suffix_of(path.name) in suffixes)
    return [p for p in found if not any(n.startswith(".") for n in p.relative_to(folder).parts)]


def _portable(path: Path) -> str:
    """The name, also of a file whose name is no valid UTF-8."""
    name = path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")
    return unicodedata.normalize("NFC", name)


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _not_found(path: str, given: Path, suffixes: Collection[str]) -> NotFoundError:
    if given.is_dir():
        kinds = f"we read {', '.join(suffixes)}, also with {' or '.join(COMPRESSIONS)}"
        return NotFoundError(f"no files of this type in the folder {path!r}", hint=kinds)
    what = "no file matches" if glob.has_magic(path) else "no such file or folder:"
    return NotFoundError(f"{what} {path!r}", hint=f"looked from {str(Path.cwd())!r}")
