from __future__ import annotations

import contextlib
import gzip
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.text import TextSource
from tests.unit.data.sources.conftest import ReadAll

SPEC = SourceSpec(path="x")


@given(
    text=st.text(alphabet=st.sampled_from("ab é\n\r\t\U0001f600"), max_size=400),
    part_bytes=st.integers(8, 120),
)
def test_parts_are_the_whole_and_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, text: str, part_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.txt"
    path.write_bytes(text.encode())
    file, source = SourceFile("x.txt", path), TextSource(part_bytes)
    parts = source.parts(SPEC, file)
    in_parts = [chunk for part in parts for chunk in source.chunks(file, part)]
    assert b"".join(in_parts) == text.encode()
    assert in_parts == list(source.chunks(file, Part()))
    assert all(not document.reason for document in source.read(SPEC, file, Part()))
    packed = path.with_name("x.txt.gz")
    packed.write_bytes(gzip.compress(text.encode()))
    assert list(source.chunks(SourceFile("x.txt.gz", packed), Part())) == in_parts


def test_a_long_file_is_cut_between_paragraphs(read_all: ReadAll) -> None:
    paragraphs = [f"Paragraph {n}, {'long ' * (n % 7)}\nof two lines.\n\n" for n in range(50)]
    documents = read_all(TextSource(300), "x.txt", "".join(paragraphs).encode())
    assert len(documents) > 3
    assert all(document.text.startswith("Paragraph") for document in documents)


@pytest.mark.parametrize(
    ("content", "text", "reason"),
    [
        ("\ufeffcafé".encode(), "café", ""),
        ("café".encode("utf-16"), "café", ""),
        ("\ufeffcafé".encode("utf-16-be"), "café", ""),
        (b"", "", ""),
        (b"good \xff bad", "good \ufffd bad", "invalid_utf8"),
        (b"PK\x03\x04\0\0", "", "binary"),
    ],
)
def test_encodings(read_all: ReadAll, content: bytes, text: str, reason: str) -> None:
    [document] = read_all(TextSource(), "x.txt", content)
    assert (document.text, document.reason) == (text, reason)


def test_only_the_paragraph_with_bad_bytes_is_a_reject(read_all: ReadAll) -> None:
    content = b"One.\n\nTwo.\n\nbad \xff\n\nThree.\n\nFour."
    documents = read_all(TextSource(), "x.txt", content)
    assert [(d.text, d.reason) for d in documents] == [
        ("One.\n\nTwo.\n\n", ""), ("bad \ufffd\n\n", "invalid_utf8"), ("Three.\n\nFour.", ""),
    ]  # fmt: skip
    assert all(d.may_be_cut for d in documents)


@pytest.mark.parametrize("name", ["x.txt.gz", "x.txt.zst"])
def test_compressed_files_and_damaged_ones(read_all: ReadAll, name: str) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "gzip" if name.endswith("gz") else "zstd") as stream:
        stream.write("café\n".encode() * 1000)
    content = sink.getvalue().to_pybytes()
    [document] = read_all(TextSource(), name, content)
    assert document.text == "café\n" * 1000
    assert [d.text for d in read_all(TextSource(), name, content * 2)] == ["café\n" * 2000]
    for damaged in (content[:-9], b"neither", content + b"junk that follows"):
        with pytest.raises(UnreadableError):
            read_all(TextSource(), name, damaged)


@pytest.mark.parametrize("name", ["x.txt.gz", "x.txt.zst"])
@pytest.mark.parametrize("source", [TextSource(), TextSource(1 << 16)])
def test_all_whole_lines_before_the_damage_are_kept(
    tmp_path: Path, name: str, source: TextSource
) -> None:
    text, damaged = _cut_off(name)
    path = tmp_path / name
    path.write_bytes(damaged)
    kept: list[RawDocument] = []
    with pytest.raises(UnreadableError):
        kept.extend(source.read(SPEC, SourceFile(name, path), Part()))
    assert not any(document.reason for document in kept)
    found = "".join(document.text for document in kept)
    assert text.startswith(found)
    assert found.endswith("\n")
    longest_line = max(map(len, text.splitlines())) + 1
    assert len(found.encode()) > _readable_bytes(path) - 4 * longest_line


def _cut_off(name: str) -> tuple[str, bytes]:
    """A text, and two thirds of it compressed."""
    rng = random.Random(1)
    text = "".join(f"{rng.getrandbits(rng.randrange(400)):x} é\n" for _ in range(30_000))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "gzip" if name.endswith("gz") else "zstd") as stream:
        stream.write(text.encode())
    content = sink.getvalue().to_pybytes()
    return text, content[: len(content) * 2 // 3]


def _readable_bytes(path: Path) -> int:
    """How much the codec gives, asked for a byte at a time."""
    n_bytes, codec = 0, "gzip" if path.suffix == ".gz" else "zstd"
    with (
        contextlib.suppress(OSError),
        pa.CompressedInputStream(pa.OSFile(str(path)), codec) as stream,
    ):
        while stream.read(1):
            n_bytes += 1
    return n_bytes


def test_half_of_a_utf16_character_is_damage(read_all: ReadAll) -> None:
    with pytest.raises(UnreadableError):
        read_all(TextSource(), "x.txt", "abc".encode("utf-16")[:-1])


def test_a_vanished_file_is_told_without_its_path(tmp_path: Path) -> None:
    file, source = SourceFile("x.txt", tmp_path / "x.txt"), TextSource()
    assert source.parts(SPEC, file) == [Part()]
    with pytest.raises(UnreadableError, match="No such file") as caught:
        list(source.read(SPEC, file, Part()))
    assert str(tmp_path) not in str(caught.value)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(b"A paragraph.\n\n" * 1_000_000, 1))
    tracemalloc.start()
    n_bytes = sum(map(len, TextSource(1 << 18).chunks(SourceFile("x", path), Part())))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_bytes == 14_000_000
    assert peak_bytes < 4_000_000
