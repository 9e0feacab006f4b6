"""How tokens are drawn: colours on a terminal, marks elsewhere, and no colour but ours."""

from __future__ import annotations

import re
from typing import Any

from jobs.dataset_preview import document_lines
from mulm.data.views import PreviewOrder

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def document(*tokens: tuple[str, bool]) -> dict[str, Any]:
    pieces = [
        {"id": k, "text": text, "completes": text, "is_special": False, "is_learned": learned}
        for k, (text, learned) in enumerate(tokens)
    ]
    return {
        "decision": "train", "source": "books", "name": "a.txt", "part": 0, "row": 0,
        "language": "", "size_bytes": 3, "n_tokens": len(pieces), "n_learned": 1,
        "tokens": pieces, "skipped": 0, "left": 0, "unit": "tokens",
    }  # fmt: skip


def drawn(order: PreviewOrder, *tokens: tuple[str, bool], in_colour: bool = True) -> str:
    return document_lines(document(*tokens), order, in_colour=in_colour)[2]


def test_neighbouring_tokens_have_other_backgrounds() -> None:
    order = PreviewOrder(with_tokens=True)
    first, second, third = re.findall(
        r"(\x1b\[48[^m]*m)\w", drawn(order, ("a", True), ("b", True), ("c", True))
    )
    assert first == third != second


def test_what_is_not_learned_is_dim() -> None:
    order = PreviewOrder(with_mask=True)
    assert drawn(order, ("a", True), ("b", False), ("c", True)) == "a\x1b[2mb\x1b[0mc"


def test_a_colour_does_not_go_over_the_end_of_a_line() -> None:
    order = PreviewOrder(with_tokens=True, with_mask=True)
    for line in drawn(order, ("a\n\nb", False), ("c", True)).split("\n"):
        assert not line or line.endswith("\x1b[0m")


def test_colours_in_a_text_are_not_drawn() -> None:
    order = PreviewOrder(with_tokens=True, with_mask=True)
    text = drawn(order, ("\x1b[31mred", True))
    assert "\x1b" not in _COLOUR.sub("", text)
    assert "\x1b[31m" not in text


def test_marks_stand_for_colours_elsewhere() -> None:
    tokens = (("a", True), ("b", False), ("c", False), ("d", True))
    both = PreviewOrder(with_tokens=True, with_mask=True)
    assert drawn(both, *tokens, in_colour=False) == "a|[-b|c-]d|"
    mask = PreviewOrder(with_mask=True)
    assert drawn(mask, *tokens, in_colour=False) == "a[-bc-]d"
    borders = PreviewOrder(with_tokens=True)
    assert drawn(borders, *tokens, in_colour=False) == "a|b|c|d|"
