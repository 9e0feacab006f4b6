from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mulm.data.sections import cut_sections

texts = st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "\n\n\n", "é"])).map("".join)


@given(texts, st.integers(1, 10), st.integers(0, 20))
def test_sections_joined_are_the_text(text: str, low: int, more: int) -> None:
    sections = cut_sections(text, low, low + more)
    assert "".join(sections) == text
    assert all(low <= len(section) <= low + more for section in sections[:-1])
    assert all(0 < len(section) <= low + more for section in sections)


def test_chapters_before_paragraphs_before_lines() -> None:
    assert cut_sections("aaaa\n\nb\n\n\nCHAPTER\n\ncc", 4, 12)[0] == "aaaa\n\nb\n\n\n"
    assert cut_sections("aaaa\nb\n\nccc\ndddddddd", 4, 12)[0] == "aaaa\nb\n\n"
    assert cut_sections("aaaa b\nc dddddddddddd", 4, 12)[0] == "aaaa b\n"
    assert cut_sections("aaaa b dddddddddddd", 4, 12)[0] == "aaaa b "
    assert cut_sections("a" * 30, 4, 12)[0] == "a" * 12
    assert cut_sections("", 4, 12) == []
