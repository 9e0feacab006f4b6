from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from mulm.errors import ConflictError
from mulm.ledger import Ledger
from mulm.records import Answered


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db", clock=iter(range(1, 1000)).__next__) as facts:
        yield facts


def told(ledger, after=0):
    return [(each.kind, each.subject, each.data) for each in ledger.happenings(after)]


def test_everything_that_happens_is_told_in_order(ledger):
    ledger.create_run("run_1", "train", {})
    ledger.set_phase("run_1", "running")
    ledger.set_phase("run_1", "running")  # nothing moves
    ledger.publish("model", "tiny", "1" * 64)
    ledger.publish("model", "tiny", "1" * 64)  # nothing comes
    ledger.set_alias("model", "tiny", "live", 1)
    ledger.publish("model", "tiny", "2" * 64)
    ledger.set_deployment("tiny", {"model": "tiny@live"}, "made")
    ledger.set_deployment("tiny", None, "removed")
    ledger.remove_version("model", "tiny", 2)
    ledger.add_key("key_1", "digest", "a friend")
    for verdict in ("up", "up", "down"):  # the second says nothing new
        ledger.give_feedback("fb_1", "key_1", Answered("tiny", (), "Hello"), verdict)
    ledger.remove_feedback("fb_1")
    ledger.remove_key("key_1")
    assert told(ledger) == [
        ("run", "run_1", {"phase": "queued", "kind": "train"}),
        ("run", "run_1", {"phase": "running", "kind": "train"}),
        ("version", "tiny@1", {"kind": "model", "is_removed": False}),
        ("alias", "tiny@live", {"kind": "model", "version": 1}),
        ("version", "tiny@2", {"kind": "model", "is_removed": False}),
        ("deployment", "tiny", {"revision": 1, "reason": "made", "is_removed": False}),
        ("deployment", "tiny", {"revision": 2, "reason": "removed", "is_removed": True}),
        ("version", "tiny@2", {"kind": "model", "is_removed": True}),
        ("key", "key_1", {"is_revoked": False}),
        ("feedback", "fb_1", {"model": "tiny", "verdict": "up", "is_removed": False}),
        ("feedback", "fb_1", {"model": "tiny", "verdict": "down", "is_removed": False}),
        ("feedback", "fb_1", {"model": "tiny", "verdict": "down", "is_removed": True}),
        ("key", "key_1", {"is_revoked": True}),
    ]
    assert [each.seq for each in ledger.happenings()] == list(range(1, 14))
    times = [each.time_s for each in ledger.happenings()]
    assert times == sorted(times)


def test_it_is_read_in_pages(ledger):
    for number in range(5):
        ledger.create_run(f"run_{number}", "train", {})
    assert ledger.last_happening() == 5
    assert [each.seq for each in ledger.happenings(after=1, limit=2)] == [2, 3]
    assert ledger.happenings(after=5) == []


def test_what_did_not_happen_is_not_told(ledger):
    ledger.create_run("run_1", "train", {})
    n_before = ledger.last_happening()
    with pytest.raises(ConflictError):
        ledger.set_phase("run_1", "paused", only_from=["running"])
    assert ledger.last_happening() == n_before


def test_a_database_from_before_the_feed_tells_what_happens_from_now_on(tmp_path):
    path = tmp_path / "old.db"
    with Ledger(path) as facts:
        facts.create_run("run_1", "train", {})
    with closing(sqlite3.connect(path)) as database:
        triggers = database.execute("SELECT name FROM sqlite_master WHERE type='trigger'")
        for (name,) in triggers.fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("DROP TABLE feed")
        database.execute("PRAGMA user_version = 0")
    with Ledger(path) as facts:
        assert facts.happenings() == []
        facts.set_phase("run_1", "running")
        assert told(facts) == [("run", "run_1", {"phase": "running", "kind": "train"})]
