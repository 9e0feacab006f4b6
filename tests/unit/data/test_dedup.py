from __future__ import annotations

from mulm.data.dedup import digest, duplicates


def test_digest_is_blind_to_white_space() -> None:
    assert digest("one two\nthree ") == digest("one  two three")
    assert digest("one two") != digest("onetwo")


def test_the_first_stays() -> None:
    assert duplicates(["a", "b", "a", "a", "c"]) == [False, False, True, True, False]
