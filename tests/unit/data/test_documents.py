from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.documents import (
    CHUNK_SCHEMA,
    DIGEST_BYTES,
    content_hash,
    from_parquet,
    to_parquet,
)

Documents = Callable[..., pa.Table]

digests = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
short = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
values = {
    "name": short, "part": st.integers(0, 9), "row": st.integers(0, 9), "digest": digests,
    "group": digests, "size_bytes": st.integers(0, 99), "language": short, "reason": short,
    "bands": st.binary(max_size=4), "messages": short, "text": short,
}  # fmt: skip
rows = st.fixed_dictionaries(values)
tables = st.lists(rows, min_size=1, max_size=6).map(
    lambda found: pa.Table.from_pylist(found, schema=CHUNK_SCHEMA)
)


def test_layout_is_frozen() -> None:
    assert CHUNK_SCHEMA.names == [
        "name", "part", "row", "digest", "group", "size_bytes", "language", "reason", "bands",
        "messages", "text",
    ]  # fmt: skip
    assert set(values) == set(CHUNK_SCHEMA.names)
    table = pa.Table.from_pylist(
        [
            {
                "name": "é.txt", "part": 1, "row": 2, "digest": b"d" * 16, "group": b"g" * 16,
                "size_bytes": 4, "language": "en", "reason": "", "bands": b"\1", "messages": "",
                "text": "text",
            }
        ],
        schema=CHUNK_SCHEMA,
    )  # fmt: skip
    assert content_hash(table) == "3917d5e8c1eb657147c7fa8a7023c6cadc3151717da8b71d13ffd910030d6897"


@given(tables)
@settings(max_examples=25)
def test_parquet_round_trip(table: pa.Table) -> None:
    content = to_parquet(table)
    assert from_parquet(content) == table
    assert from_parquet(content, ["reason", "text"]) == table.select(["reason", "text"])
    assert content_hash(from_parquet(content)) == content_hash(table)


@given(tables, st.data())
@settings(max_examples=25)
def test_hash_is_that_of_the_rows_however_they_lie(table: pa.Table, data: st.DataObject) -> None:
    expected = content_hash(table)
    assert content_hash(table.combine_chunks()) == expected
    cut = data.draw(st.integers(0, len(table)))
    assert content_hash(pa.concat_tables([table[:cut], table[cut:]])) == expected
    wrapped = pa.concat_tables([table, table, table])[len(table) : 2 * len(table)]
    assert content_hash(wrapped) == expected
    assert content_hash(pa.concat_tables([table, table]).combine_chunks()[: len(table)]) == expected
    encoded = table
    for name in ("name", "language", "reason", "text"):
        place = encoded.schema.get_field_index(name)
        encoded = encoded.set_column(place, name, encoded[name].dictionary_encode())
    assert content_hash(encoded) == expected
    assert to_parquet(encoded) == to_parquet(table)
    wide = table.set_column(10, "text", table["text"].cast(pa.large_string()))
    assert content_hash(wide) == expected


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_hash_does_not_depend_on_compression(documents: Documents, compression: str) -> None:
    table = documents(["One text", "and another one, é", ""])
    target = pa.BufferOutputStream()
    pq.write_table(table, target, compression=compression)
    assert content_hash(from_parquet(target.getvalue().to_pybytes())) == content_hash(table)


@given(tables, st.data())
@settings(max_examples=25)
def test_hash_tells_any_other_rows(table: pa.Table, data: st.DataObject) -> None:
    found = table.to_pylist()
    place = data.draw(st.integers(0, len(found) - 1))
    name = data.draw(st.sampled_from(CHUNK_SCHEMA.names))
    other = data.draw(values[name].filter(lambda value: value != found[place][name]))
    changed = [*found[:place], {**found[place], name: other}, *found[place + 1 :]]
    assert hash_of(changed) != hash_of(found)
    assert hash_of([*found, found[-1]]) != hash_of(found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([{"messages": "ab", "text": ""}], [{"messages": "", "text": "ab"}]),
        ([{"messages": "a", "text": "bc"}], [{"messages": "ab", "text": "c"}]),
        ([{"text": "ab"}, {"text": "c"}], [{"text": "a"}, {"text": "bc"}]),
        ([{"text": "a"}, {"text": "b"}], [{"text": "b"}, {"text": "a"}]),
        ([{"text": "ab"}, {"text": ""}], [{"text": ""}, {"text": "ab"}]),
        ([{"name": "a", "language": ""}], [{"name": "", "language": "a"}]),
        ([{"part": 1, "row": 0}], [{"part": 0, "row": 1}]),
    ],
)
def test_hash_tells_what_moved(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert hash_of([BLANK | row for row in one]) != hash_of([BLANK | row for row in other])


BLANK: dict[str, Any] = {
    "name": "", "part": 0, "row": 0, "digest": bytes(16), "group": bytes(16), "size_bytes": 0,
    "language": "", "reason": "", "bands": b"", "messages": "", "text": "",
}  # fmt: skip


def hash_of(found: list[dict[str, Any]]) -> str:
    return content_hash(pa.Table.from_pylist(found, schema=CHUNK_SCHEMA))


def test_no_rows(documents: Documents) -> None:
    empty = documents([])
    assert from_parquet(to_parquet(empty)) == empty
    assert content_hash(empty) == content_hash(documents(["a"])[:0])
    assert content_hash(empty) != content_hash(documents([""]))
