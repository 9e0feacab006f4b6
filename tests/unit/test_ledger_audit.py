from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from mulm.ledger import Ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def note(ledger: Ledger, who: str, subject: str) -> None:
    ledger.add_audit(who, "req_1", "PUT", "/x/{id}", subject, "200")


def test_notes_are_read_newest_first_by_who_and_page_by_page(path):
    with Ledger(path, lambda: 5.0) as ledger:
        for number in range(5):
            note(ledger, f"key_{number % 2}", f"/x/{number}")
        found = ledger.audit()
        assert [row.subject for row in found] == [f"/x/{n}" for n in (4, 3, 2, 1, 0)]
        assert found[0].time_s == 5.0
        assert [row.subject for row in ledger.audit("key_1")] == ["/x/3", "/x/1"]
        assert [row.subject for row in ledger.audit(before=found[1].seq, limit=2)] == [
            "/x/2", "/x/1",
        ]  # fmt: skip


def test_the_database_itself_refuses_to_change_or_forget_a_note(path):
    with Ledger(path) as ledger:
        note(ledger, "key_1", "/x/1")
    with closing(sqlite3.connect(path)) as database:
        for statement in ("DELETE FROM audit", "UPDATE audit SET who='another'"):
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                database.execute(statement)
