from __future__ import annotations

from dataclasses import replace

import pytest

from mulm.errors import NotFoundError
from mulm.ledger import Ledger
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
        assert again.feedback() == [given]
        assert again.one_feedback("fb_1") == given


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
    assert ids(ledger.feedback("m0")) == ids(ledger.feedback("mdl_0")) == ["fb_4", "fb_2", "fb_0"]
    assert ids(ledger.feedback("m0", "up")) == ["fb_2", "fb_0"]
    assert ids(ledger.feedback(after="fb_4", limit=2)) == ["fb_3", "fb_2"]
    with pytest.raises(NotFoundError, match="fb_9"):
        ledger.feedback(after="fb_9")
    with pytest.raises(NotFoundError, match="fb_9"):
        ledger.one_feedback("fb_9")
