"""Parquet and CSV, and what is said of files whose columns are not those that were asked for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mulm.data.source_spec import SourceSpec
from mulm.data.sources import delimited, streams
from mulm.data.sources.auto import AutoSource
from mulm.data.sources.base import Part, SourceFile, UnreadableError
from mulm.data.sources.delimited import CsvSource
from mulm.data.sources.parquet import ParquetSource
from mulm.errors import SchemaError
from tests.unit.data.sources.conftest import ReadAll


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def outcomes(documents: list[Any]) -> list[str]:
    return [document.reason or document.text for document in documents]


def test_parquet_rows(read_all: ReadAll) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    content = parquet({"text": ["a", None, "é"], "id": [1, 2, 3]}, row_group_size=2)
    assert outcomes(read_all(ParquetSource(1), "x.parquet", content)) == ["a", "null_text", "é"]
    [chat] = read_all(ParquetSource(), "x.parquet", parquet({"messages": [turns]}))
    assert json.loads(chat.messages) == turns
    large = parquet({"body": pa.array(["a", "a"], pa.large_string()).dictionary_encode()})
    assert outcomes(read_all(ParquetSource(), "x.parquet", large, text="body")) == ["a", "a"]
    assert outcomes(read_all(ParquetSource(), "x.parquet", large)) == ["no_text"] * 2
    assert read_all(ParquetSource(), "x.parquet", parquet({"text": pa.array([], "string")})) == []


def test_parquet_cells_that_are_no_utf8(read_all: ReadAll) -> None:
    buffers = pa.array([b"a", b"\xff", b"b"], pa.binary()).buffers()
    bad = pa.StringArray.from_buffers(3, buffers[1], buffers[2])
    documents = read_all(ParquetSource(), "x.parquet", parquet({"text": bad}))
    assert outcomes(documents) == ["a", "invalid_utf8", "b"]
    binary = parquet({"text": pa.array([b"a", b"\xff"], pa.binary())})
    assert outcomes(read_all(ParquetSource(), "x.parquet", binary)) == ["a", "invalid_utf8"]


@pytest.mark.parametrize("damage", ["cut", "middle"])
def test_damaged_parquet(read_all: ReadAll, damage: str) -> None:
    content = parquet({"text": [f"{n} text" * 50 for n in range(500)]}, compression="zstd")
    half = len(content) // 2
    damaged = content[:half] if damage == "cut" else content[: half // 2] + content[half // 2 + 9 :]
    with pytest.raises(UnreadableError):
        read_all(ParquetSource(), "x.parquet", damaged)


def test_csv_rows(read_all: ReadAll) -> None:
    content = '\ufefftext,id\n"two\nlines, and ""quotes""",1\nonly one\n\n'.encode()
    content += b"bad \xff,2\n\0,3\n" + ("long " * 90_000).encode() + b",4\nlast,5"
    long = "long " * 90_000
    assert outcomes(read_all(CsvSource(), "x.csv", content)) == [
        'two\nlines, and "quotes"', "bad_row", "invalid_utf8", "\0", long, "last",
    ]  # fmt: skip
    tabs = "frage\tantwort\nHi\tHo\n".encode("utf-16")
    columns = {"instruction": "frage", "output": "antwort"}
    [chat] = read_all(CsvSource(), "x.tsv", tabs, **columns)
    assert chat.text == "user: Hi\n\nassistant: Ho"
    assert read_all(CsvSource(), "x.csv", b"") == []
    old = b'text,id\ra,1\r"b\rc",2\r'
    assert outcomes(read_all(CsvSource(), "x.csv", old)) == ["a", "b\rc"]


def test_csv_without_an_end(read_all: ReadAll, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (streams, delimited):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 100)
    content = b'text\na\n"never ends\n' + b"more\n" * 99 + b"x" * 500 + b"\nlast\n"
    found = outcomes(read_all(CsvSource(), "x.csv", content))
    assert found[0] == "a"
    assert "too_long_row" in found


@pytest.mark.parametrize(
    ("name", "content", "columns", "said", "hint"),
    [
        ("x.jsonl", b'{"content": "a long text", "id": "7"}', {},
         "'x.jsonl', row 1: has no column 'text' or a conversation's; found: 'content', 'id'",
         "columns: {text: content}"),
        ("x.jsonl", b'{"txet": "a", "much_longer": "b b b"}', {}, "row 1", "{text: txet}"),
        ("x.jsonl", b'{"body": "a"}', {"text": "bodi"}, "has no column 'bodi'", "{text: body}"),
        ("x.jsonl", b'{"question": "a", "answer": "b"}', {}, "row 1",
         "columns: {instruction: question, output: answer}"),
        ("x.jsonl", b'{"text": 5}', {}, "column 'text' holds a number, not text", "no column"),
        ("x.jsonl", b"[1]", {}, "row 1: is a number, not columns", '{"text": "..."}'),
        ("x.json", b'[{"title": "a"}]', {}, "'x.json', row 1", "{text: title}"),
        ("x.csv", b"id,story\n1,Once\n", {}, "found: 'id', 'story'", "{text: story}"),
        ("x.parquet", parquet({"text": [1, 2]}), {}, "holds a number", "no column"),
        ("x.parquet", parquet({"a": [1]}), {}, "found: 'a'", "is it the right file"),
        ("x.jsonl", b'{"messages": [{"role": "wizard", "content": "Hi"}]}', {},
         "its conversation cannot be read (unknown_role)", ""),
        ("x.jsonl", b'{"text": "a"}', {"txt": "a"}, "unknown in columns: 'txt'", "'text'"),
    ],
)  # fmt: skip
def test_a_mismatch_is_told_before_any_work(
    tmp_path: Path, name: str, content: bytes, columns: dict[str, str], said: str, hint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    file, spec = SourceFile(name, tmp_path / name), SourceSpec(path="x", columns=columns)
    with pytest.raises(SchemaError) as caught:
        AutoSource().check(spec, file)
    assert said in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'{"no": 1}\n{"text": null}\n{"text": "a"}'), ("x.jsonl", b"{broken\n"),
        ("x.jsonl", b""), ("x.json", b"[{]"), ("x.csv", b""), ("x.csv", b"id\n"),
        ("x.parquet", b"nothing of the kind"), ("x.txt", b"\xff"), ("x.jsonl.gz", b"broken"),
        ("x.parquet", parquet({"text": pa.array([], "string")})), ("x.json.zst", b"broken"),
    ],
)  # fmt: skip
def test_damage_and_single_bad_rows_are_no_mismatch(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    AutoSource().check(SourceSpec(path="x"), SourceFile(name, tmp_path / name))


def test_parts_of_parquet_are_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet({"text": [f"{n}" * 99 for n in range(100)]}, row_group_size=10))
    file, spec = SourceFile("x", path), SourceSpec(path="x")
    assert ParquetSource().parts(spec, file) == [Part(0, 10)]
    assert [part.start for part in ParquetSource(1).parts(spec, file)] == list(range(10))


def test_memory_does_not_grow_with_a_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    texts = [hashlib.sha256(b"%d" % n).hexdigest() * 16 for n in range(12_000)]
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1 << 16}
    path.write_bytes(parquet({"text": texts}, **options))
    n_held: list[int] = []
    real = open

    def counted(self: Path, mode: str) -> Any:
        file = real(self, mode)
        return _Counting(file, n_held)

    monkeypatch.setattr(Path, "open", counted)
    source, spec = ParquetSource(), SourceSpec(path="x")
    assert sum(1 for _ in source.read(spec, SourceFile("x", path), Part())) == len(texts)
    assert max(n_held) <= 1 << 20


class _Counting:
    """A file that notes how much is read of it at once."""

    def __init__(self, file: Any, sizes: list[int]) -> None:
        self._file, self._sizes = file, sizes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        content = bytes(self._file.read(size))
        self._sizes.append(len(content))
        return content
