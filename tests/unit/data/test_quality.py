from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.quality import FAMILIES, GOPHER_STOP_WORDS, fineweb, gopher
from mulm.data.rules import QualityName
from mulm.data.texts import Texts
from tests.unit.data.test_texts import plain_words

SENTENCE = "The quick brown foxes jumped over lazy dogs and that was to be the end of it all.\n"
GOOD = "".join(f"Line {n} begins differently. {SENTENCE}" for n in range(6))
PIECES = st.sampled_from(
    [
        "the",
        "and",
        "of",
        "Über",
        "# ",
        "...",
        "…",
        "\n",
        "\n- ",
        "\n• x",
        "12",
        "a" * 30,
        "日本。",
        ".",
    ]
)
PAGES = st.lists(PIECES, min_size=20, max_size=80).map(" ".join)


def plain_gopher(text: str) -> str:
    words = [word.decode() for word in plain_words(text)]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n_lines, n_words = max(len(lines), 1), max(len(words), 1)
    tokens = text.split()
    n_with_letter = sum(any(c.isalpha() or ord(c) > 127 for c in token) for token in tokens)
    mean_chars = sum(map(len, words)) / n_words
    ellipses = ("...", "…")
    rules = {
        "gopher_too_few_words": len(words) < 50,
        "gopher_too_many_words": len(words) > 100_000,
        "gopher_short_words": mean_chars < 3,
        "gopher_long_words": mean_chars > 10,
        "gopher_hashes": text.count("#") / n_words > 0.1,
        "gopher_ellipses": sum(map(text.count, ellipses)) / n_words > 0.1,
        "gopher_bullets": sum(line[0] in "•-" for line in lines) / n_lines > 0.9,
        "gopher_ellipsis_lines": sum(line.endswith(ellipses) for line in lines) / n_lines > 0.3,
        "gopher_few_letters": n_with_letter / max(len(tokens), 1) < 0.8,
        "gopher_stop_words": len({*GOPHER_STOP_WORDS} & {*words}) < 2,
    }
    return next((name for name, is_broken in rules.items() if is_broken), "")


def plain_fineweb(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n_lines, n_chars = max(len(lines), 1), max(sum(map(len, lines)), 1)
    later = [line for at, line in enumerate(lines) if line in lines[:at]]
    rules = {
        "fineweb_line_ends": sum(line[-1] in ".!?。" for line in lines) / n_lines < 0.12,
        "fineweb_short_lines": sum(len(line) <= 30 for line in lines) / n_lines > 0.67,
        "fineweb_duplicate_lines": sum(map(len, later)) / n_chars > 0.01,
        "fineweb_many_lines": text.count("\n") / max(len(plain_words(text)), 1) > 0.3,
    }
    return next((name for name, is_broken in rules.items() if is_broken), "")


@settings(max_examples=25)
@given(st.lists(PAGES, max_size=3))
def test_gopher_is_its_plain_definition(batch: list[str]) -> None:
    assert gopher(Texts(batch)) == [plain_gopher(text) for text in batch]


@settings(max_examples=25)
@given(st.lists(PAGES, max_size=3))
def test_fineweb_is_its_plain_definition(batch: list[str]) -> None:
    assert fineweb(Texts(batch)) == [plain_fineweb(text) for text in batch]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        (SENTENCE, "gopher_too_few_words"),
        ("the of " * 50_001, "gopher_too_many_words"),
        ("I am to be of it. " * 20, "gopher_short_words"),
        ("the of " + "extraordinarily " * 60, "gopher_long_words"),
        (GOOD + "# " * 20, "gopher_hashes"),
        (GOOD + "so ... " * 20, "gopher_ellipses"),
        ("".join(f"- {line}\n" for line in GOOD.splitlines()), "gopher_bullets"),
        (GOOD.replace(".\n", "...\n"), "gopher_ellipsis_lines"),
        (GOOD + "1 | 2 | " * 20, "gopher_few_letters"),
        ("Many words without what English needs " * 20, "gopher_stop_words"),
    ],
)
def test_each_gopher_reason(text: str, reason: str) -> None:
    assert gopher(Texts([GOOD, text, ""])) == ["", reason, "gopher_too_few_words"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("", "fineweb_line_ends"),
        (GOOD.replace(".\n", "\n"), "fineweb_line_ends"),
        ("".join(f"This line {n} is short.\n" for n in range(9)), "fineweb_short_lines"),
        (GOOD + SENTENCE * 2, "fineweb_duplicate_lines"),
        (GOOD + "\n\n\n" * 60, "fineweb_many_lines"),
    ],
)
def test_each_fineweb_reason(text: str, reason: str) -> None:
    assert fineweb(Texts([text, GOOD])) == [reason, ""]


def test_every_family_has_rules() -> None:
    assert {*FAMILIES, "c4"} == {*get_args(QualityName)}
    assert all(family(Texts([])) == [] for family in FAMILIES.values())
