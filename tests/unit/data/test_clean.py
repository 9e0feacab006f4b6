from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.clean import decode, judge, normalise
from mulm.data.recipe import CleanRules

GOOD = "It was a bright cold day in April, and the clocks were striking thirteen.\n"


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r \t\u200b\u0301e")))
def test_normalise_twice_is_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert "\r" not in once
    assert not once or once.endswith("\n")


def test_normalise() -> None:
    text = "\ufeffCafe\u0301 \t\r\n\r\rnext\u00a0line\n\n\n\n\n\nend  "
    assert normalise(text) == "Café\n\n\nnext line\n\n\nend\n"
    assert normalise(" \n\t\n") == ""
    assert normalise("  indented\n    more") == "  indented\n    more\n"


def test_decode() -> None:
    assert decode("€".encode()) == ("€", None)
    assert decode(b"\x89PNG\0\0")[1] == "binary"
    assert decode(b"caf\xe9")[1] == "invalid_utf8"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, None),
        ("", "empty"),
        (" \n", "empty"),
        ("Hi.\n", "too_short"),
        (GOOD + "\x01\x02\x03", "control_characters"),
        (base64.b64encode(random.Random(1).randbytes(20_000)).decode(), "too_long_line"),
        (GOOD * 500, "repetition"),
        (GOOD * 3, None),
    ],
)
def test_judge(text: str, reason: str | None) -> None:
    assert judge(text, CleanRules()) == reason


def test_rules_can_be_loosened() -> None:
    rules = CleanRules(min_chars=1, min_compressed_fraction=0)
    assert judge("Hi.", rules) is None
    assert judge(GOOD * 500, rules) is None
