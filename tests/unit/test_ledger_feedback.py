from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from mulm import ledger_feedback
from mulm.errors import NotFoundError, QuotaError
from mulm.ledger import Ledger
from mulm.ledger_feedback import START_CHARS
from mulm.records import Answered

ASKED = ({"role": "user", "content": "Who are you?"},)
ANSWERED = Answered("tiny", ASKED, "A friend.", "mdl_1", "chatcmpl-1")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(path, clock=iter(range(1, 1000)).__next__) as facts:
        yield facts


def ids(found) -> list[str]:
    return [each.id for each in found]


def test_what_was_said_is_there_in_full_after_a_restart(ledger, path):
    odd = "a\x00b \u202e <b>ü</b> 🙂"
    answered = replace(ANSWERED, messages=({"role": "user", "content": odd},), answer=odd)
    given = ledger.give_feedback("fb_1", "key_1", answered, "down", odd)
    assert (given.verdict, given.comment, given.key_id) == ("down", odd, "key_1")
    assert given.answered == answered
    ledger.close()
    with Ledger(path) as again:
        assert again.one_feedback("fb_1") == given
        [line] = again.feedback()
    assert (line.id, line.key_id, line.model, line.model_id) == ("fb_1", "key_1", "tiny", "mdl_1")
    assert (line.verdict, line.comment) == ("down", odd)
    assert (line.asked_start, line.answer_start) == (odd, odd)
    assert (line.created_s, line.changed_s) == (given.created_s, given.changed_s)


def test_the_latest_verdict_of_a_key_on_an_answer_holds_in_its_place(ledger):
    first = ledger.give_feedback("fb_1", "key_1", ANSWERED, "up", "nice")
    ledger.give_feedback("fb_2", "key_2", ANSWERED, "up")
    changed = ledger.give_feedback("fb_3", "key_1", ANSWERED, "down")
    assert (changed.id, changed.verdict, changed.comment) == ("fb_1", "down", "")
    assert changed.created_s == first.created_s < changed.changed_s
    assert ids(ledger.feedback()) == ["fb_2", "fb_1"]
    assert ids(ledger.feedback(verdict="up")) == ["fb_2"]


@pytest.mark.parametrize(
    "other",
    [
        {"answer_id": "chatcmpl-2"},
        {"model_id": "mdl_2"},
        {"model": "other"},
        {"answer": "Nobody."},
        {"messages": ASKED * 2},
    ],
)
def test_another_answer_is_judged_for_itself(ledger, other):
    ledger.give_feedback("fb_1", "key_1", ANSWERED, "up")
    ledger.give_feedback("fb_2", "key_1", replace(ANSWERED, **other), "down")
    assert [each.verdict for each in ledger.feedback()] == ["down", "up"]


def test_it_is_read_in_pages_by_model_and_verdict(ledger):
    for number in range(6):
        answered = Answered(f"m{number % 2}", ASKED, str(number), f"mdl_{number % 2}")
        ledger.give_feedback(f"fb_{number}", "key_1", answered, "up" if number < 3 else "down")
    of_name, of_weights = ledger.feedback("m0"), ledger.feedback(model_id="mdl_0")
    assert ids(of_name) == ids(of_weights) == ["fb_4", "fb_2", "fb_0"]
    assert ids(ledger.feedback("m0", verdict="up")) == ["fb_2", "fb_0"]
    assert ids(ledger.feedback("mdl_0")) == [], "an id is no name"
    assert ids(ledger.feedback(after="fb_4", limit=2)) == ["fb_3", "fb_2"]
    with pytest.raises(NotFoundError, match="fb_9"):
        ledger.feedback(after="fb_9")
    with pytest.raises(NotFoundError, match="fb_9"):
        ledger.one_feedback("fb_9")


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, ""),
        ({"verdict": "up"}, "verdict"),
        ({"model": "tiny"}, "model"),
        ({"model_id": "mdl_1"}, "model_id"),
        ({"model": "tiny", "verdict": "down"}, "model_verdict"),
        ({"model_id": "mdl_1", "verdict": "up", "after": "fb_1"}, "model_id_verdict"),
    ],
)
def test_a_list_is_found_by_an_index_and_reads_no_conversation(ledger, path, asked, index):
    ledger.give_feedback("fb_1", "key_1", ANSWERED, "up")
    queries: list[str] = []
    connection = ledger._db._connection
    connection.set_trace_callback(queries.append)
    connection.set_authorizer(whole_is_denied)
    ledger.feedback(**asked, limit=5)
    with closing(sqlite3.connect(path)) as database:
        plan = database.execute(f"EXPLAIN QUERY PLAN {queries[-1]}").fetchall()
    [how] = [detail for *_, detail in plan]
    assert f"USING INDEX feedback_{index} (" in how if index else how == "SCAN feedback"


def whole_is_denied(action, table, column, *_):
    is_whole = (action, table) == (sqlite3.SQLITE_READ, "feedback") and column in WHOLE
    return sqlite3.SQLITE_DENY if is_whole else sqlite3.SQLITE_OK


WHOLE = ("answer", "messages")


def test_small_columns_stand_before_large_ones(ledger, path):
    """What stands behind a large one is read through all of its pages."""
    with closing(sqlite3.connect(path)) as database:
        names = [row[1] for row in database.execute("PRAGMA table_info(feedback)")]
    assert names[-3:] == ["comment", *WHOLE]


def test_a_list_shows_how_the_last_question_and_the_answer_begin(ledger):
    turns = ("first", "a" * 999, "x")
    roles = ("user", "user", "assistant")
    said = tuple({"role": r, "content": t} for r, t in zip(roles, turns, strict=True))
    ledger.give_feedback("fb_1", "key_1", Answered("tiny", said, "b" * 999), "up")
    [line] = ledger.feedback()
    assert (line.asked_start, line.answer_start) == ("a" * START_CHARS, "b" * START_CHARS)


def test_a_key_judges_so_many_answers_and_no_more(ledger, monkeypatch):
    monkeypatch.setattr(ledger_feedback, "MAX_ROWS_PER_KEY", 2)
    for number in range(2):
        answered = replace(ANSWERED, answer=str(number))
        ledger.give_feedback(f"fb_{number}", "key_1", answered, "up")
    with pytest.raises(QuotaError, match="2 answers"):
        ledger.give_feedback("fb_2", "key_1", ANSWERED, "up")
    changed = ledger.give_feedback("fb_3", "key_1", answered, "down")
    assert (changed.id, changed.verdict) == ("fb_1", "down"), "what was said may be changed"
    assert ledger.give_feedback("fb_4", "key_2", ANSWERED, "up").id == "fb_4"
    ledger.remove_feedback("fb_0")
    assert ledger.give_feedback("fb_5", "key_1", ANSWERED, "up").id == "fb_5"
    assert ids(ledger.feedback()) == ["fb_5", "fb_4", "fb_1"]
    with pytest.raises(NotFoundError, match="fb_0"):
        ledger.remove_feedback("fb_0")
