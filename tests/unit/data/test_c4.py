from __future__ import annotations

import pytest

from mulm.data.c4 import c4

GOOD = "".join(f"This is sentence number {n} of a page. It has more!\n" for n in range(3))


def test_lines_that_are_no_sentences_go() -> None:
    page = (
        f"A headline\n{GOOD}To be continued...\nToo short.\nPlease enable JavaScript to go on.\n"
        "We all use cookies, as you know.\n“Quoted like this,” he said in “quotes.”\n"
        + "x" * 1001
        + " is a long word.\nCited as is usual.[12]\n"
    )
    kept, reason = c4(page)
    assert reason == ""
    assert kept == GOOD + "“Quoted like this,” he said in “quotes.”\nCited as is usual.\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD, ""),
        ("", "c4_too_few_sentences"),
        ("One is here. Two is here.\nThree is here. Four is here.\n", "c4_too_few_sentences"),
        (GOOD + "This is Lorem ipsum dolor sit amet.\n", "c4_lorem_ipsum"),
        (GOOD + "if (x) { return to me; } is code.\n", "c4_curly_bracket"),
    ],
)
def test_each_reason(text: str, reason: str) -> None:
    assert c4(text) == (text, reason)
