from __future__ import annotations

from mulm.data.dedup import DIGEST_BYTES, digest


def test_digest_is_blind_to_white_space() -> None:
    assert digest("one two\nthree ") == digest("one  two\tthree")
    assert digest("one two") != digest("one too")
    assert len(digest("é \u2028")) == DIGEST_BYTES


def test_digest_is_the_same_everywhere() -> None:
    assert digest("one two\n").hex() == "25b6746d5172ed6352966a013d93ac84"
