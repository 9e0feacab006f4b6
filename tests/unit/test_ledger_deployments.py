from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from mulm.errors import ConfigError, ConflictError, NotFoundError
from mulm.ledger import Ledger


@pytest.fixture
def clock():
    return iter(range(1, 1000)).__next__


@pytest.fixture
def ledger(tmp_path, clock):
    with Ledger(tmp_path / "ledger.db", clock=clock) as facts:
        yield facts


def test_revisions_count_on_and_history_keeps_them_all(ledger):
    assert ledger.set_deployment("tiny", {"model": "tiny@1"}, "made") == 1
    assert ledger.set_deployment("tiny", {"model": "tiny@2"}, "changed") == 2
    found = ledger.deployment("tiny")
    assert (found.revision, found.spec, found.reason) == (2, {"model": "tiny@2"}, "changed")
    assert found.created_s < found.set_s
    assert [each.spec["model"] for each in ledger.deployment_history("tiny")] == [
        "tiny@2",
        "tiny@1",
    ]
    assert ledger.deployment_history("nobody") == []


def test_what_was_removed_is_not_served_and_its_numbers_go_on(ledger):
    ledger.set_deployment("tiny", {"model": "tiny@1"}, "made")
    ledger.set_deployment("other", {"model": "tiny@1"}, "made")
    first_s = ledger.deployment("tiny").created_s
    assert ledger.set_deployment("tiny", None, "removed") == 2
    assert [each.name for each in ledger.deployments()] == ["other"]
    with pytest.raises(NotFoundError, match="no deployment 'tiny'"):
        ledger.deployment("tiny")
    with pytest.raises(NotFoundError):
        ledger.set_deployment("tiny", None, "again")
    assert ledger.set_deployment("tiny", {"model": "tiny@3"}, "again") == 3
    assert ledger.deployment("tiny").created_s > first_s
    assert [each.spec is None for each in ledger.deployment_history("tiny")] == [False, True, False]


def test_only_what_was_seen_is_changed(ledger):
    ledger.set_deployment("tiny", {"model": "tiny@1"}, "made", only_from=0)
    for seen in (0, 2):
        with pytest.raises(ConflictError, match="is at revision 1 by now"):
            ledger.set_deployment("tiny", {"model": "tiny@2"}, "changed", only_from=seen)
    with pytest.raises(ConflictError, match="is not there by now"):
        ledger.set_deployment("none", {"model": "tiny@2"}, "changed", only_from=1)
    assert ledger.set_deployment("tiny", None, "removed", only_from=1) == 2
    assert ledger.set_deployment("tiny", {"model": "tiny@2"}, "made", only_from=0) == 3


def test_a_version_that_is_served_is_not_removed(ledger):
    for number in "123":
        ledger.publish("model", "tiny", number * 64)
    ledger.set_deployment("tiny", {"model": "tiny@1", "adapters": {"a": "tiny@2"}}, "made")
    for number in (1, 2):
        with pytest.raises(ConflictError, match="is served as 'tiny'"):
            ledger.remove_version("model", "tiny", number)
    ledger.remove_version("model", "tiny", 3)
    ledger.set_deployment("tiny", None, "removed")
    ledger.remove_version("model", "tiny", 1)


def test_a_name_is_a_name(ledger):
    with pytest.raises(ConfigError):
        ledger.set_deployment("../x", {}, "made")


def test_a_database_from_before_deployments_gets_their_table(tmp_path):
    path = tmp_path / "old.db"
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE deployments")
        database.execute("PRAGMA user_version = 0")
    with Ledger(path) as facts:
        assert facts.deployments() == []
