from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.clean import decode, normalise

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n\n\r \t\x85\u2028\u200b\u0301e")
)


def plain_normalise(text: str) -> str:
    text = re.sub("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    text = re.sub("[\u00a0\u2007\u202f]", " ", re.sub("[\ufeff\u200b\u00ad]", "", text))
    text = unicodedata.normalize("NFC", text)
    text = re.sub("\n{4,}", "\n\n\n", re.sub("[ \t]+\n", "\n", text + "\n")).strip("\n")
    return text.rstrip() + "\n" if text.strip() else ""


@given(TEXTS)
def test_normalise_is_its_plain_definition(text: str) -> None:
    assert normalise(text) == plain_normalise(text)


@given(TEXTS)
def test_normalise_twice_is_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_normalise() -> None:
    text = "\ufeffCafe\u0301 \t\r\n\r\rnext\u00a0line\n\n\n\n\n\nend  "
    assert normalise(text) == "Café\n\n\nnext line\n\n\nend\n"
    assert normalise(" \n\t\n") == ""
    assert normalise("  indented\n    more") == "  indented\n    more\n"


@pytest.mark.parametrize("n_lines", range(1, 60))
def test_blank_lines_are_two_at_most(n_lines: int) -> None:
    assert normalise("a" + "\n" * n_lines + "b") == "a" + "\n" * min(n_lines, 3) + "b\n"


def test_half_surrogate_pairs_can_be_stored() -> None:
    assert normalise("a\ud83db") == "a\ufffdb\n"
    assert normalise("\ud83d\ude00") == "\U0001f600\n"


def test_decode() -> None:
    assert decode("€".encode()) == ("€", None)
    assert decode(b"\x89PNG\0\0")[1] == "binary"
    assert decode(b"caf\xe9")[1] == "invalid_utf8"
