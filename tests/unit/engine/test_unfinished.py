"""Requests leave at their deadline, at their end or when cancelled, and release what they hold."""

from __future__ import annotations

import pytest

from mulm.engine.group import Group
from mulm.engine.request import Sequence
from mulm.engine.unfinished import Unfinished
from mulm.messages import GenerateRequest, SamplingParams, TokenChunk


@pytest.fixture
def released() -> list[tuple[str, int]]:
    return []


@pytest.fixture
def unfinished(released) -> Unfinished:
    return Unfinished(lambda s: released.append((s.request.request_id, s.index)))


def group(name: str, n: int = 1) -> Group:
    request = GenerateRequest(name, (1,), SamplingParams(), n=n)
    return Group(request, [Sequence(request, index, 0) for index in range(n)])


def end(asked: Group, index: int) -> TokenChunk:
    asked.sequences[index].finish_reason = "stop"
    return TokenChunk(asked.request.request_id, (7,), "stop", index)


def test_deadlines_end_what_is_open_in_their_order(unfinished, released):
    late, later = group("late", n=2), group("later")
    unfinished.add(later, 5.0)
    unfinished.add(late, 2.0)
    first = end(late, 0)
    assert unfinished.tell([first]) == [first]
    assert unfinished.expire(1.9) == []
    assert unfinished.expire(5.0) == [
        TokenChunk("late", (), "deadline", 1),
        TokenChunk("later", (), "deadline", 0),
    ]
    assert released == [("late", 0), ("late", 1), ("later", 0)]
    assert len(unfinished) == 0


def test_who_has_ended_is_not_there_at_its_deadline(unfinished, released):
    asked = group("a", n=2)
    unfinished.add(asked, 1.0)
    unfinished.tell([TokenChunk("a", (3,), None, 0), end(asked, 1)])
    assert [s.index for s in unfinished] == [0]
    assert "a" in unfinished
    unfinished.tell([end(asked, 0)])
    assert "a" not in unfinished
    assert unfinished.expire(2.0) == []
    assert released == [("a", 1), ("a", 0)]


def test_cancelled_once(unfinished, released):
    unfinished.add(group("a", n=2), 1.0)
    assert unfinished.cancel("a")
    assert not unfinished.cancel("a")
    assert released == [("a", 0), ("a", 1)]
    assert unfinished.expire(2.0) == []


def test_what_has_ended_is_not_remembered_until_its_deadline(unfinished):
    kept = group("kept")
    unfinished.add(kept, 1e9)
    for number in range(2000):
        one = group(str(number))
        unfinished.add(one, 1e6)
        unfinished.tell([end(one, 0)])
    assert len(unfinished._deadlines) < 100
    assert [chunk.request_id for chunk in unfinished.expire(1e9)] == ["kept"]
