from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.source_spec import SourceSpec
from mulm.data.sources import streams
from mulm.data.sources.base import Part, SourceFile, UnreadableError
from mulm.data.sources.jsonl import JsonSource
from tests.unit.data.sources.conftest import ReadAll


def jsonl(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def outcomes(documents: list[Any]) -> list[str]:
    return [document.reason or document.text for document in documents]


@given(
    texts=st.lists(st.text(max_size=40), max_size=12),
    part_bytes=st.integers(1, 90),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_parts_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], part_bytes: int, end: str
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.jsonl"
    path.write_bytes(end.join(json.dumps({"text": t}) for t in texts).encode())
    file, source, spec = SourceFile("x", path), JsonSource(part_bytes), SourceSpec(path="x")
    in_parts = [d for part in source.parts(spec, file) for d in source.read(spec, file, part)]
    assert [d.text for d in in_parts] == texts
    assert in_parts == list(source.read(spec, file, Part()))


def test_bad_lines_are_rejects_with_a_reason(read_all: ReadAll) -> None:
    content = b'\xef\xbb\xbf{"text": "first"}\n' + jsonl(
        {"text": None}, {"body": "x"}, {"text": 5}, 7, {"text": "lone \ud800"}, {"text": ""}
    )
    content += b'{"text": "bad \xff"}\n{"text": \n\n   \n' + b"[" * 100_000 + b'\n{"text": "last"}'
    assert outcomes(read_all(JsonSource(), "x.jsonl", content)) == [
        "first", "null_text", "no_text", "bad_text", "bad_row", "invalid_utf8", "", "invalid_utf8",
        "invalid_json", "invalid_json", "last",
    ]  # fmt: skip


def test_a_reject_shows_what_it_was(read_all: ReadAll) -> None:
    [document] = read_all(JsonSource(), "x.jsonl", jsonl({"body": "é" * 99_999}))
    assert document.text.startswith('{"body": "ééé')
    assert len(document.text) == streams.SHOWN_BYTES


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_too_long_for_memory(
    read_all: ReadAll, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 2000)
    long = b'{"text": "' + b"x" * 9000 + b'"}' + end
    content = jsonl({"text": "a"}) + long + (jsonl({"text": "b"}) if end else b"")
    for part_bytes in (1 << 20, 500):
        documents = read_all(JsonSource(part_bytes), "x.jsonl", content)
        assert outcomes(documents) == ["a", "too_long_row", "b"][: 3 if end else 2]
        assert documents[1].text.startswith('{"text": "xxx')


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.ndjson"])
def test_a_list_by_what_it_begins_with(read_all: ReadAll, name: str, indent: int | None) -> None:
    rows = [{"text": f"{n} é [{{"} for n in range(5000)] + [{"no": 1}]
    content = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    texts = [row["text"] for row in rows[:-1]]
    assert outcomes(read_all(JsonSource(10), name, content)) == [*texts, "no_text"]


def test_objects_over_several_lines(read_all: ReadAll) -> None:
    content = b'{\n "text": "a"\n}\n{\n "text": "b"\n}\n'
    assert outcomes(read_all(JsonSource(), "x.json", content)) == ["a", "b"]
    assert outcomes(read_all(JsonSource(), "x.json", jsonl({"text": "a"}))) == ["a"]
    assert outcomes(read_all(JsonSource(), "x.json", b'[{"text": "\xff"}]')) == ["invalid_utf8"]
    assert read_all(JsonSource(), "x.json", b" []\n") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'[{"text": "a"},', "no end"), (b'[{"text": "a"}, {"te', "invalid JSON"),
        (b'[{"text": "a"}] []', "follows"), (b"[{]", "invalid JSON"), (b"[" * 99_999, "too deep"),
    ],
)  # fmt: skip
def test_a_damaged_list(read_all: ReadAll, content: bytes, why: str) -> None:
    with pytest.raises(UnreadableError, match=why):
        read_all(JsonSource(), "x.json", content)


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json.gz"])
def test_all_rows_before_the_damage_of_a_stream_are_kept(tmp_path: Path, name: str) -> None:
    rng = random.Random(1)
    texts = [f"{rng.getrandbits(400):x}" for _ in range(20_000)]
    rows = ",\n".join(json.dumps({"text": text}) for text in texts)
    whole = f"[{rows}]" if ".json." in name else rows.replace(",\n", "\n")
    content = gzip.compress(whole.encode())
    cut = content[: len(content) // 2]
    path = tmp_path / name
    path.write_bytes(cut)
    kept: list[str] = []
    read = JsonSource().read(SourceSpec(path="x"), SourceFile(name, path), Part())
    with pytest.raises(UnreadableError):
        kept.extend(document.text for document in read)
    readable = zlib.decompressobj(31).decompress(cut)
    assert len(kept) >= readable.count(b"\n") > 5000
    assert kept == texts[: len(kept)]


@pytest.mark.parametrize("name", ["x.jsonl.zst", "x.json.zst"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pa.output_stream(str(path), compression="zstd") as stream:
        row = json.dumps({"text": "word " * 200})
        stream.write(f"[{row}".encode() if "json." in name else row.encode())
        for _ in range(8):
            stream.write((("," if "json." in name else "\n") + row).encode() * 1000)
        stream.write(b"]" if "json." in name else b"\n")
    file, source, spec = SourceFile(name, path), JsonSource(), SourceSpec(path="x")
    tracemalloc.start()
    n_read = sum(1 for _ in source.read(spec, file, Part()))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_read == 8001
    assert peak_bytes < 5_000_000
