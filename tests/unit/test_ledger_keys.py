from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mulm.accounts import KeyLimits
from mulm.errors import ConflictError, NotFoundError
from mulm.ledger import Ledger


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock):
    with Ledger(tmp_path / "ledger.sqlite", clock) as facts:
        yield facts


def test_a_key_is_kept_with_all_that_it_may(ledger):
    limits = KeyLimits(requests_per_minute=5, token_quota=10**12)
    made = ledger.add_key("key_1", "d1", "friend", "inference", ("demo",), 500.0, limits)
    assert ledger.key("key_1") == made
    assert ledger.key_secrets() == {"d1": made}
    changed = replace(made, name="other", models=(), expires_s=None, limits=KeyLimits())
    ledger.change_key(changed)
    assert ledger.valid_keys() == [changed]
    with pytest.raises(NotFoundError):
        ledger.change_key(replace(made, id="key_2", name="nobody"))


def test_a_name_is_of_one_key(ledger):
    first, second = (ledger.add_key(f"key_{n}", f"d{n}", name) for n, name in enumerate("ab"))
    for act in (
        lambda: ledger.add_key("key_9", "d9", "a"),
        lambda: ledger.change_key(replace(second, name="a")),
    ):
        with pytest.raises(ConflictError, match="there is a key 'a' already") as caught:
            act()
        assert first.id in caught.value.hint
    assert ledger.valid_keys() == [first, second]
    ledger.remove_key(first.id)
    ledger.change_key(replace(second, name="a"))


def test_of_two_changes_at_once_the_second_is_told(ledger):
    made = ledger.add_key("key_1", "d1", "friend")
    limited = replace(made, limits=KeyLimits(requests_per_minute=5))
    for _ in range(2):
        ledger.change_key(limited, made)  # made again where its answer was lost
    with pytest.raises(ConflictError, match="changed meanwhile"):
        ledger.change_key(replace(made, name="other"), made)
    assert ledger.valid_keys() == [limited]
    ledger.remove_key(made.id)
    with pytest.raises(NotFoundError):
        ledger.change_key(replace(limited, name="other"), limited)


def test_keys_of_one_name_from_before_can_be_changed(ledger):
    first, second = (ledger.add_key(f"key_{n}", f"d{n}", name) for n, name in enumerate("ab"))
    with ledger._db.writing():
        ledger._db.execute("UPDATE keys SET name='a'")
    ledger.change_key(replace(second, name="a", expires_s=900.0))
    assert [key.expires_s for key in ledger.valid_keys()] == [None, 900.0]
    ledger.change_key(replace(first, name="c"))


def test_a_rotated_secret_ends_with_its_overlap_and_never_comes_back(ledger, clock):
    key = ledger.add_key("key_1", "d1", "friend")
    ledger.rotate_key("key_1", "d2", overlap_s=60)
    assert ledger.key_secrets() == {"d2": key, "d1": replace(key, expires_s=160.0)}
    ledger.rotate_key("key_1", "d3", overlap_s=10)
    assert {d: k.expires_s for d, k in ledger.key_secrets().items()} == {
        "d3": None, "d2": 110.0, "d1": 110.0,
    }  # fmt: skip
    clock.now_s = 110.0
    assert list(ledger.key_secrets()) == ["d3"]
    for act in (
        lambda: ledger.rotate_key("key_1", "d1", 0),
        lambda: ledger.add_key("key_9", "d2", "again"),
        lambda: ledger.replace_key("key_9", "d2", "again"),
    ):
        with pytest.raises(ConflictError):
            act()
    with pytest.raises(NotFoundError):
        ledger.rotate_key("key_none", "d8", 0)
    assert list(ledger.key_secrets()) == ["d3"]


def test_a_keys_own_end_bounds_the_overlap(ledger):
    ledger.add_key("key_1", "d1", "friend", expires_s=130.0)
    ledger.rotate_key("key_1", "d2", overlap_s=60)
    assert {k.expires_s for k in ledger.key_secrets().values()} == {130.0}


def test_revoking_ends_the_overlap_too(ledger):
    ledger.add_key("key_1", "d1", "friend")
    ledger.rotate_key("key_1", "d2", overlap_s=60)
    ledger.remove_key("key_1")
    assert ledger.key_secrets() == {}
    assert ledger.is_retired("d1")
    assert ledger.is_retired("d2")
    assert not ledger.is_retired("d3")
    with pytest.raises(NotFoundError):
        ledger.remove_key("key_1")


def test_an_older_database_opens_and_its_keys_have_no_limits(tmp_path):
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as old, old:
        old.execute(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, digest TEXT UNIQUE NOT NULL, name TEXT NOT"
            " NULL, created_s REAL NOT NULL, scope TEXT NOT NULL DEFAULT 'all')"
        )
        old.execute("INSERT INTO keys VALUES ('key_1', 'd1', 'first', 1.0, 'inference')")
    for _ in range(2):
        with Ledger(path) as facts:
            [key] = facts.valid_keys()
            assert (key.scope, key.models, key.limits) == ("inference", (), KeyLimits())
    with Ledger(path) as facts:
        facts.rotate_key("key_1", "d2", 1000)
        assert set(facts.key_secrets()) == {"d1", "d2"}
