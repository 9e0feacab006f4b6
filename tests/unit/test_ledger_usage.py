from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from mulm.accounts import HOUR_S, UsageRow
from mulm.ledger import Ledger

DAY_S = 24 * HOUR_S


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite", lambda: 1e6) as facts:
        yield facts


def row(hour: int, key: str = "key_1", model: str = "a", n: int = 1) -> UsageRow:
    return UsageRow(key, model, hour * HOUR_S, n, 10 * n, n)


def test_a_batch_counts_once_and_tells_the_tokens_of_all(ledger):
    assert ledger.add_usage("w", 1, [row(1), row(1, "key_2")]) == {"key_1": 11, "key_2": 11}
    assert ledger.add_usage("w", 1, [row(1)]) == {"key_1": 11, "key_2": 11}
    assert ledger.add_usage("w", 2, [row(1)]) == {"key_1": 22, "key_2": 11}
    assert ledger.add_usage("other", 1, [row(1)])["key_1"] == 33
    assert ledger.add_usage("w", 1, [row(1)])["key_1"] == 33, "an older one comes late"
    assert [r.requests for r in ledger.usage("key_1")] == [3]


def test_usage_by_key_model_time_and_stretch(ledger):
    rows = [row(0), row(1), row(23), row(24), row(25, model="b"), row(25, "key_2")]
    ledger.add_usage("w", 1, rows)
    assert len(ledger.usage()) == 6
    assert [r.start_s for r in ledger.usage("key_1", "a")] == [0, 3600, 23 * 3600, DAY_S]
    days = ledger.usage("key_1", bucket_s=DAY_S)
    assert [(r.start_s, r.model, r.requests) for r in days] == [
        (0, "a", 3), (DAY_S, "a", 1), (DAY_S, "b", 1),
    ]  # fmt: skip
    assert [r.start_s for r in ledger.usage(from_s=3700, to_s=DAY_S)] == [3600, 23 * 3600]
    assert ledger.usage(from_s=DAY_S + 5, bucket_s=DAY_S)[0].start_s == DAY_S, "whole days"
    assert ledger.usage("key_none") == []


def test_writers_that_are_long_gone_are_forgotten(tmp_path):
    now_s = [0.0]
    path = tmp_path / "ledger.sqlite"
    with Ledger(path, lambda: now_s[0]) as facts:
        for number in range(5):
            facts.add_usage(f"w{number}", 1, [row(1)])
            now_s[0] += 3 * 86400
    with closing(sqlite3.connect(path)) as database:
        [(n,)] = database.execute("SELECT count(*) FROM usage_writers").fetchall()
    assert n == 3


def test_what_a_revoked_key_has_used_stays(ledger):
    ledger.add_key("key_1", "d", "friend")
    ledger.add_usage("w", 1, [row(1)])
    ledger.remove_key("key_1")
    assert len(ledger.usage("key_1")) == 1
