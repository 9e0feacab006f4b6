from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.tokenizer import train_tokenizer
from serve_app.openai_api.text import TextStream, overlap

BYTES = train_tokenizer(["ab ba wörld"], 288)
"""A token for each byte, so that every stop string crosses token borders."""


def run(text: str, stops, mark="") -> tuple[list[str], bool]:
    stream = TextStream(BYTES, stops, mark=mark)
    pieces = []
    for token_id in BYTES.encode(text):
        pieces.append(stream.push(token_id))
        if stream.is_stopped:
            return pieces, True
    pieces.append(stream.finish())
    return pieces, stream.is_stopped


def expected(text: str, stops) -> tuple[str, bool]:
    """Read it a character at a time: the first moment at which some stop is whole ends it."""
    for end in range(len(text) + 1):
        found = [at for stop in stops if (at := text[:end].find(stop)) >= 0]
        if found:
            return text[: min(found)], True
    return text, False


@pytest.mark.parametrize(
    ("text", "stops", "want"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["twx"], "one two three"),
        ("aab", ["ab"], "a"),
        ("abab abc", ["abc"], "abab "),
        ("say END", ["END"], "say "),
        ("say EN", ["END"], "say EN"),
        ("wörld", ["ö"], "w"),
        ("x", [], "x"),
    ],
)
def test_stop_strings(text, stops, want):
    pieces, _ = run(text, stops)
    assert "".join(pieces) == want


@given(st.text("ab ö", max_size=30), st.lists(st.text("abö", min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_before_the_first_stop(text, stops):
    pieces, is_stopped = run(text, stops)
    assert ("".join(pieces), is_stopped) == expected(text, stops)


@pytest.mark.parametrize(
    ("text", "stops", "want"),
    [
        ("one<m>two", ["two"], "one<m>two"),
        ("one<m>two", ["<"], "one<m>two"),
        ("one<m>two", ["e<m"], "one<m>two"),
        ("one<m>two", ["n"], "o"),
        ("one<mtwo", ["<"], "one"),
        ("one<m", ["<"], "one"),
        ("one<m", ["m>"], "one<m"),
        ("<<m>", ["<"], ""),
        ("><>", ["<", "><>"], ">"),
    ],
)
def test_behind_a_mark_and_in_it_nothing_stops(text, stops, want):
    pieces, is_stopped = run(text, stops, "<m>")
    assert "".join(pieces) == want
    assert is_stopped == (want != text)


@given(st.text("ab<m>", max_size=30), st.lists(st.text("ab<>", min_size=1, max_size=3), max_size=3))
def test_stops_are_looked_for_before_the_mark_alone(text, stops):
    pieces, is_stopped = run(text, stops, "<m>")
    before, mark, after = text.partition("<m>")
    shown, stopped = expected(before, stops)
    assert ("".join(pieces), is_stopped) == (shown + ("" if stopped else mark + after), stopped)


def test_without_stops_whole_characters_go_out_at_once():
    pieces, _ = run("wö", [])
    assert pieces == ["w", "", "ö", ""]


def test_a_cut_character_ends_as_a_replacement():
    stream = TextStream(BYTES)
    assert stream.push(BYTES.encode("ö")[0]) == ""
    assert stream.finish() == "\ufffd"


def test_overlap_is_never_the_whole_stop():
    assert overlap("xab", "abc") == 2
    assert overlap("abc", "abc") == 0
    assert overlap("aa", "aab") == 2
    assert overlap("", "a") == 0
