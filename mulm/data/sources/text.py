"""Plain text files: `.txt` and `.md`, also compressed as `.gz`; one document a file."""

from __future__ import annotations

import glob
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from mulm.data.sources.base import SourceFile, UnreadableError
from mulm.errors import NotFoundError

SUFFIXES = (".txt", ".md", ".txt.gz", ".md.gz")


class TextSource:
    """A file, a folder with all that is below it, or a glob such as `notes/**/*.md`."""

    def files(self, path: str) -> list[SourceFile]:
        """See `Source.files`. A folder gives its `.txt` and `.md` files; a glob gives all."""
        given = Path(path).expanduser()
        if given.is_file():
            return [SourceFile(given.name, given)]
        if given.is_dir():
            found = [p for p in given.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file()]
            root = given
        else:
            found = [Path(p) for p in glob.glob(str(given), recursive=True)]
            found = [p for p in found if p.is_file()]
            root = _fixed_part(given)
        if not found:
            raise _not_found(path, given)
        return sorted(
            (SourceFile(_printable(p.relative_to(root)), p) for p in found),
            key=lambda file: file.name,
        )

    def read(self, file: SourceFile) -> Iterator[bytes]:
        """See `Source.read`."""
        try:
            content = file.path.read_bytes()
            yield gzip.decompress(content) if file.name.endswith(".gz") else content
        except (OSError, EOFError, zlib.error) as error:
            # A file's path differs between machines: keep what went wrong without it.
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UnreadableError(why) from None


def _printable(path: Path) -> str:
    """The name, also of a file whose name is no valid UTF-8."""
    return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _not_found(path: str, given: Path) -> NotFoundError:
    if given.is_dir():
        kinds = ", ".join(SUFFIXES)
        return NotFoundError(f"no text files in the folder {path!r}", hint=f"we read {kinds}")
    what = "no file matches" if glob.has_magic(path) else "no such file or folder:"
    return NotFoundError(f"{what} {path!r}", hint=f"looked from {str(Path.cwd())!r}")
