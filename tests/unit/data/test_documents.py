from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.documents import (
    DOCUMENT_SCHEMA,
    FileTask,
    assign,
    from_parquet,
    in_order,
    make_plan,
    read_file,
    to_parquet,
)
from mulm.data.recipe import CleanRules, SplitRule
from mulm.data.sources.text import TextSource
from mulm.errors import DataError


def read(folder: Path, by: str = "section") -> list[pa.Table]:
    files = TextSource().files(str(folder))
    return [read_file(FileTask(i, "text", f), CleanRules(), by) for i, f in enumerate(files)]


def test_read_file_keeps_every_verdict(corpus: Path) -> None:
    tables = read(corpus)
    assert all(table.schema == DOCUMENT_SCHEMA for table in tables)
    found = {t["name"][0].as_py(): t["reason"].to_pylist() for t in tables}
    assert found["binary.txt"] == ["binary"]
    assert found["blank.txt"] == ["empty"]
    assert found["broken.txt.gz"] == ["unreadable"]
    assert found["latin1.txt"] == ["invalid_utf8"]
    assert found["short.txt"] == ["too_short"]
    assert set(found["book-0.txt"]) == {""}
    assert len(found["book-0.txt"]) > 2


def test_plan_names_duplicates_and_splits_by_section(corpus: Path) -> None:
    tables = read(corpus)
    plan = make_plan(in_order(tables), SplitRule(validation_fraction=0.2))
    assert plan.reasons == {
        "binary": 1, "duplicate": len(tables[-3]), "empty": 1, "invalid_utf8": 1,
        "too_short": 1, "unreadable": 1,
    }  # fmt: skip
    assert plan.shard_names == (
        "train-00000.parquet", "validation-00000.parquet", "rejects-00000.parquet",
    )  # fmt: skip
    assigned = pa.concat_tables([assign(table, plan) for table in tables])
    rejects = assigned.filter(np.array(assigned["shard"]) == 2)
    assert "duplicate" in rejects["reason"].to_pylist()
    assert "" not in rejects["reason"].to_pylist()
    kept = assigned.filter(np.array(assigned["shard"]) != 2)
    assert set(kept["reason"].to_pylist()) == {""}


def test_split_by_file_holds_out_whole_files(corpus: Path) -> None:
    tables = read(corpus, by="file")
    plan = make_plan(in_order(tables), SplitRule(by="file", validation_fraction=0.01))
    assigned = pa.concat_tables([assign(table, plan) for table in tables])
    names = {
        shard: set(assigned.filter(np.array(assigned["shard"]) == shard)["name"].to_pylist())
        for shard in (0, 1)
    }
    assert len(names[1]) == 1
    assert not names[0] & names[1]


def test_one_section_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One short letter to a friend. " * 3)
    with pytest.raises(DataError, match="smaller than one validation document"):
        make_plan(in_order(read(tmp_path)), SplitRule())


@given(st.randoms(use_true_random=False), st.integers(1, 9))
def test_shards_do_not_depend_on_order_or_batches(
    corpus_tables: list[pa.Table], random: st.DataObject, n_batches: int
) -> None:
    expected = shards(corpus_tables)
    rows = pa.concat_tables(corpus_tables)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = [
        rows.take(pa.array(order[start::n_batches], pa.int64())) for start in range(n_batches)
    ]
    assert shards(shuffled) == expected


def shards(tables: list[pa.Table]) -> dict[str, bytes]:
    plan = make_plan(in_order(tables), SplitRule(), shard_bytes=20_000)
    table = pa.concat_tables([assign(t, plan) for t in tables])
    return {
        name: to_parquet(table.filter(np.array(table["shard"]) == number))
        for number, name in enumerate(plan.shard_names)
    }


@pytest.fixture(scope="session")
def corpus_tables(tmp_path_factory: pytest.TempPathFactory, prose: object) -> list[pa.Table]:
    folder = tmp_path_factory.mktemp("corpus")
    for seed in range(3):
        (folder / f"{seed}.txt").write_text(prose(seed % 2, 60))  # type: ignore[operator]
    return read(folder)


def test_parquet_round_trip(corpus_tables: list[pa.Table]) -> None:
    table = from_parquet(to_parquet(corpus_tables[0]))
    assert table.column_names == ["name", "section", "digest", "reason", "text"]
    assert table["text"].to_pylist() == corpus_tables[0]["text"].to_pylist()
    wide = corpus_tables[0].set_column(
        7, "text", corpus_tables[0]["text"].cast(pa.large_string())
    )  # as a shuffle gives it back
    assert to_parquet(wide) == to_parquet(corpus_tables[0])
