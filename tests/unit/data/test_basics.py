from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.basics import _is_repetitive, basic_reasons, repeated_fraction
from mulm.data.rules import CleanRules

GOOD = "It was a bright cold day in April, and the clocks were striking thirteen.\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("", "empty"),
        (" \n", "empty"),
        ("Hi.\n", "too_short"),
        (GOOD + "\x01\x02\x03", "control_characters"),
        (GOOD + "\x7f", "control_characters"),
        ("\n".join(f"{n} {GOOD}" for n in range(20)) + "\x01", ""),
        (GOOD + "\tindented\tby\ttabs", ""),
        (base64.b64encode(random.Random(1).randbytes(20_000)).decode(), "too_long_line"),
        (GOOD * 500, "repetition"),
        (GOOD * 3, ""),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    assert basic_reasons([text], CleanRules()) == [reason]
    assert basic_reasons([GOOD, text, "\x01"], CleanRules())[1] == reason


def test_rules_can_be_loosened() -> None:
    rules = CleanRules(min_chars=1, max_repeated_fraction=1)
    assert basic_reasons(["Hi.", GOOD * 500], rules) == ["", ""]


def test_repeated_fraction_counts_characters_of_later_lines() -> None:
    assert repeated_fraction("aaa\n  aaa \n\nbbb\naaa\n") == 6 / 12
    assert repeated_fraction("\n\n") == 0


@given(
    st.lists(st.sampled_from(["", "a", " a", "bb", "ccc" * 9, "d" * 40]), max_size=30),
    st.floats(0.05, 1),
)
def test_the_short_way_agrees(lines: list[str], max_fraction: float) -> None:
    text = "\n".join(lines)
    assert _is_repetitive(text, max_fraction) == (repeated_fraction(text) > max_fraction)
