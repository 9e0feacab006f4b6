from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mulm.checksum import hash_file
from mulm.data import chunk as chunk_module
from mulm.data.chunk import ReadRules, read_chunks
from mulm.data.clean import normalise
from mulm.data.dedup import digest
from mulm.data.documents import CHUNK_SCHEMA, content_hash, from_parquet
from mulm.data.near import N_BANDS
from mulm.data.rules import CleanRules, NearRules
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.registry import source_of
from mulm.data.sources.text import TextSource
from mulm.data.tasks import ListedFile, ReadTask, make_tasks
from mulm.errors import DataError, NotFoundError

Prose = Callable[[int, int], str]
RULES = ReadRules(CleanRules())


def listed(path: Path) -> ListedFile:
    stat = path.stat()
    file = SourceFile(path.name, path)
    return ListedFile(0, file, hash_file(path), stat.st_size, stat.st_mtime_ns)


def task_of(*paths: Path, **settings: Any) -> ReadTask:
    spec = SourceSpec.model_validate({"path": "anywhere", **settings})
    [task] = make_tasks(spec, source_of(spec.type), [listed(path) for path in paths])
    return task


def read(*paths: Path, rules: ReadRules = RULES, **settings: Any) -> pa.Table:
    products = list(read_chunks(rules, task_of(*paths, **settings)))
    tables = [from_parquet(product.content) for product in products]
    for product, table in zip(products, tables, strict=True):
        assert product.name == "chunk.parquet"
        assert product.rows == len(table) > 0
        assert product.content_sha256 == content_hash(table)
        assert table.schema == CHUNK_SCHEMA
    return pa.concat_tables(tables)


def rejects(table: pa.Table) -> list[tuple[str, str]]:
    return [(r["name"], r["reason"]) for r in table.to_pylist() if r["reason"]]


class Broken(TextSource):
    """Three documents, then damage."""

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        for number in range(3):
            yield RawDocument(f"Document {number} is long enough to be kept by the rules. " * 2)
        raise UnreadableError("the file ends in the middle")


class Writing(TextSource):
    """Something else writes to the file while it is read."""

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        yield from super().read(spec, file, part)
        file.path.write_text("something shorter")


def own(cls: type) -> str:
    return f"{__name__}:{cls.__name__}"


def test_rows_say_where_they_come_from(tmp_path: Path, prose: Prose) -> None:
    path = tmp_path / "book.txt"
    path.write_text(prose(1, 60))
    table = read(path)
    assert set(table["name"].to_pylist()) == {"book.txt"}
    assert table["row"].to_pylist() == list(range(len(table)))
    assert len(table) > 1
    texts = table["text"].to_pylist()
    assert "".join(texts) == normalise(prose(1, 60))
    assert table["digest"].to_pylist() == [digest(text) for text in texts]
    assert table["group"].to_pylist() == table["digest"].to_pylist()
    assert table["size_bytes"].to_pylist() == [len(text.encode()) for text in texts]
    assert set(table["bands"].to_pylist()) == {b""}


def test_every_verdict_is_kept(corpus: Path) -> None:
    table = read(*sorted(corpus.glob("*.*")))
    assert rejects(table) == [
        ("binary.txt", "binary"), ("blank.txt", "empty"), ("broken.txt.gz", "unreadable"),
        ("latin1.txt", "invalid_utf8"), ("short.txt", "too_short"),
    ]  # fmt: skip
    shown = table.filter(pa.array([r == "invalid_utf8" for r in table["reason"].to_pylist()]))
    assert shown["text"][0].as_py().startswith("Caf\ufffd au lait")


@pytest.mark.parametrize("batch_chars", [1, 500, 20_000])
def test_batches_do_not_show(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, batch_chars: int
) -> None:
    rules = ReadRules(CleanRules(), NearRules())
    paths = sorted(corpus.glob("*.*"))
    expected = read(*paths, rules=rules)
    monkeypatch.setattr(chunk_module, "BATCH_CHARS", batch_chars)
    assert read(*paths, rules=rules) == expected


def test_chunks_are_bounded(tmp_path: Path, prose: Prose, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "book.txt"
    path.write_text(prose(1, 200))
    whole = read(path)
    monkeypatch.setattr(chunk_module, "BATCH_CHARS", 1)
    monkeypatch.setattr(chunk_module, "CHUNK_BYTES", 20_000)
    products = list(read_chunks(RULES, task_of(path)))
    tables = [from_parquet(product.content) for product in products]
    assert len(tables) > 2
    assert all(20_000 <= table["text"].nbytes < 40_000 for table in tables[:-1])
    assert pa.concat_tables(tables) == whole


def test_compressed_is_as_plain(tmp_path: Path, prose: Prose) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_text(prose(1, 30))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = read(plain), read(packed)
    assert other.drop_columns(["name"]) == one.drop_columns(["name"])


def test_damage_in_the_middle_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("whatever")
    table = read(path, type=own(Broken))
    assert table["reason"].to_pylist() == ["", "", "", "unreadable"]
    assert table["text"][3].as_py() == "the file ends in the middle"
    assert table["row"].to_pylist() == [0, 1, 2, 3]


def test_a_truncated_archive_keeps_its_whole_documents(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    rows = [json.dumps({"text": f"Row {n}. " + "abc def " * 20}) for n in range(12_000)]
    path.write_bytes(gzip.compress("\n".join(rows).encode())[:-100])
    table = read(path)
    assert rejects(table) == [("rows.jsonl.gz", "unreadable")]
    assert 5000 < len(table) < 12_000
    expected = [normalise(json.loads(row)["text"]) for row in rows[:100]]
    assert table["text"][:100].to_pylist() == expected


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("content", ["", "\n\n \n"])
def test_a_file_without_documents_is_one_reject(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert rejects(read(path)) == [(name, "empty")]


def test_a_parquet_without_rows_is_one_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert rejects(read(path)) == [("a.parquet", "empty")]


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    path.write_text("text")
    task = task_of(path)
    path.unlink()
    with pytest.raises(NotFoundError, match=r"gone\.txt'"):
        list(read_chunks(RULES, task))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "open.txt"
    path.write_text("A text that is long enough to be kept by the rules. " * 9)
    with pytest.raises(DataError, match=r"'open\.txt' changed"):
        list(read_chunks(RULES, task_of(path, type=own(Writing))))


def test_encoded_data_is_no_writing(tmp_path: Path, prose: Prose) -> None:
    path = tmp_path / "mixed.txt"
    path.write_text(prose(1, 40) + "\n\n" + "QUJD" * 100_000 + "\n\n" + prose(2, 40))
    table = read(path)
    kept = "".join(r["text"] for r in table.to_pylist() if not r["reason"])
    assert rejects(table) == [("mixed.txt", "too_long_line")] * 25
    assert kept.count("CHAPTER") == 10
    assert "QUJD" not in kept


@pytest.mark.parametrize("n_chars", [16_000, 16_001, 20_000, 16_100, 55_555])
def test_encoded_data_leaves_no_tail(tmp_path: Path, n_chars: int) -> None:
    path = tmp_path / "data.txt"
    path.write_text("Q" * n_chars)
    assert set(rejects(read(path))) == {("data.txt", "too_long_line")}
    assert all(read(path)["reason"].to_pylist())


def test_one_long_word_of_a_text_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("Q" * 7_000 + "\n")
    assert rejects(read(path)) == []


def test_writing_without_spaces_is_writing(tmp_path: Path) -> None:
    path = tmp_path / "zh.txt"
    path.write_text("".join(chr(0x4E00 + n * 7 % 20_000) for n in range(40_000)))
    table = read(path, rules=ReadRules(CleanRules(max_line_chars=10**6)))
    assert rejects(table) == []


def test_a_very_long_line_is_held_in_rejects_of_bounded_size(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [json.dumps({"text": text}) for text in ("word " * 100_000, "ab" * 40)]
    path.write_text("\n".join(rows))
    table = read(path, type="jsonl")
    assert table["reason"].to_pylist() == ["too_long_line", ""]
    assert len(table["text"][0].as_py()) == 64 << 10
    assert table["size_bytes"][0].as_py() == 64 << 10


def test_lone_surrogates_and_nulls_end_no_build(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        '{"text": "half a pair \\ud800 in a text that is long enough to be kept otherwise ...."}',
        '{"text": null}', '{"text": 7}', "{}", "[]", "not json", '{"text": "\\u0000\\u0001"}',
        '{"prompt": "a \\udfff", "chosen": "b", "rejected": "c"}',
        '{"text": "' + "A good text after all of that. " * 4 + '"}',
    ]  # fmt: skip
    path.write_text("\n".join(rows))
    table = read(path)
    assert len(table) == len(rows)
    assert table["reason"].to_pylist()[-1] == ""
    assert all(table["reason"].to_pylist()[:-1])


def test_sections_are_the_sources_choice_unless_told(tmp_path: Path, prose: Prose) -> None:
    path = tmp_path / "book.txt"
    path.write_text(prose(1, 60))
    assert len(read(path)) > 1
    assert len(read(path, sections=False)) == 1
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": prose(1, 60)}))
    assert len(read(rows, type="jsonl")) == 1
    assert len(read(rows, type="jsonl", sections=True)) > 1


def test_conversations_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [
        {"role": "user", "content": "Tell me something long."},
        {"role": "assistant", "content": "\n".join(f"Line {n} of them." for n in range(3000))},
    ]
    path.write_text(json.dumps({"messages": turns}))
    table = read(path, sections=True)
    assert len(table) == 1
    assert json.loads(table["messages"][0].as_py()) == turns


def test_rules_change_every_turn(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    ask, answer = "Who is\u00a0there?  ", "It is me: somebody@example.org, and you know it.\r\n"
    rows = [
        {
            "messages": [
                {"role": r, "content": c} for r, c in (("user", ask), ("assistant", answer))
            ]
        },
        {"prompt": ask, "chosen": answer, "rejected": "somebody@example.org said nothing"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    table = read(path, rules=ReadRules(CleanRules(mask=("mail",))))
    assert table["reason"].to_pylist() == ["", "", "too_short"]
    whole, pair, short = table["messages"].to_pylist()
    user, said = json.loads(whole)
    assert user["content"] == "Who is there?"
    assert said["content"].startswith("It is me: ")
    assert said["content"].endswith(", and you know it.")
    assert json.loads(pair)["chosen"] == [user, said]
    assert json.loads(pair)["rejected"][1]["content"].endswith(" said nothing")
    assert "somebody@" not in str(table.to_pylist())
    assert short == "", "a reject is shown, not learned"


def test_whole_files_are_one_group(corpus: Path) -> None:
    paths = sorted(corpus.glob("book*"))
    table = read(*paths, rules=ReadRules(CleanRules(), whole_files=True))
    groups = {(r["name"], r["group"]) for r in table.to_pylist()}
    assert groups == {(p.name, bytes.fromhex(hash_file(p))[:16]) for p in paths}


def test_bands_are_there_when_asked_for(corpus: Path) -> None:
    table = read(corpus / "book-0.txt", rules=ReadRules(CleanRules(), NearRules()))
    assert {len(bands) for bands in table["bands"].to_pylist()} == {8 * N_BANDS}


def test_tasks_and_rules_travel_between_processes(corpus: Path) -> None:
    task = task_of(corpus / "book-0.txt")
    rules, moved = pickle.loads(pickle.dumps((RULES, task)))
    assert list(read_chunks(rules, moved)) == list(read_chunks(RULES, task))
