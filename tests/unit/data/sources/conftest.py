from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import RawDocument, Source

ReadAll = Callable[..., list[RawDocument]]


@pytest.fixture
def read_all(tmp_path: Path) -> ReadAll:
    """Writes a file and reads it, in the parts that its source makes of it."""

    def read(source: Source, name: str, content: bytes, **columns: str) -> list[RawDocument]:
        path = tmp_path / name
        path.write_bytes(content)
        spec = SourceSpec(path=str(path), columns=columns)
        return [
            document
            for file in source.files(spec)
            for part in source.parts(spec, file)
            for document in source.read(spec, file, part)
        ]

    return read
