from __future__ import annotations

import gzip
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mulm.config import parse_config
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.data.source_spec import FileContent
from mulm.data.sources.uploaded import uploaded_file
from mulm.errors import CorruptError, NotFoundError
from mulm.store import Store

LINES = b"".join(
    b'{"text": "%s."}\n' % b" ".join(b"%d is a number" % (n * k) for k in range(20))
    for n in range(1, 60)
)


def content_of(store: Store, content: bytes, name: str) -> FileContent:
    blob = store.put(name, content)
    return FileContent(name=name, sha256=blob.sha256, size_bytes=blob.size_bytes)


def recipe(**source: Any) -> Recipe:
    return parse_config(
        Recipe, {"name": "lines", "sources": [source], "tokenizer": {"vocab_size": 300}}
    )


@pytest.mark.parametrize("name", ["lines.jsonl", "Lines.JSONL.gz", "lines.json"])
def test_a_version_is_that_of_a_local_file_of_that_name(tmp_path: Path, name: str) -> None:
    content = gzip.compress(LINES, mtime=0) if name.endswith("gz") else LINES
    (tmp_path / name).write_bytes(content)
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    local = build(recipe(path=str(tmp_path / name), licence="CC0-1.0"), there)
    given = content_of(here, content, name)
    built = build(recipe(content=given.model_dump(), licence="CC0-1.0"), here)
    assert built == local
    assert built.documents.config["files"] == [
        {"source": 0, "name": name, "sha256": sha256(content).hexdigest()}
    ]
    assert built.dataset.licences == ("CC0-1.0",)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("../../../etc/passwd", ""),
        ("/etc/passwd.txt", ".txt"),
        ("a\0.md", ".md"),
        ("x.tsv.zst", ".tsv.zst"),
        ("\u202etxt.exe", ""),
        ("n" * 10_240 + ".parquet", ".parquet"),
        ("e\u0301.txt", ".txt"),
        ("", ""),
    ],
)
def test_a_name_gives_no_more_than_a_suffix(tmp_path: Path, name: str, suffix: str) -> None:
    store = Store(tmp_path)
    given = content_of(store, b"text", name)
    for _ in range(2):
        found = uploaded_file(given, store)
    assert found.path == store.downloads / "uploaded" / f"{given.sha256}{suffix}"
    assert found.path.read_bytes() == b"text"
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]
    assert found.name == ("é.txt" if "\u0301" in name else name)


def test_what_is_gone_or_damaged_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    given = content_of(store, b"text", "a.txt")
    path = uploaded_file(given, store).path.resolve()
    path.chmod(0o644)
    path.write_bytes(b"tixt")
    with pytest.raises(CorruptError):
        uploaded_file(given, store)
    path.unlink()
    with pytest.raises(NotFoundError):
        uploaded_file(given, store)
