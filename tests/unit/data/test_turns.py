from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mulm.data.turns import as_turns


def test_a_paragraph_is_cut_at_a_sentence() -> None:
    turns = as_turns("One day it rained. The cat went in.\nIt slept.\n\nThe end")
    assert [(t.role, t.content) for t in turns] == [
        ("user", "One day it rained."),
        ("assistant", "The cat went in.\nIt slept."),
    ]


def test_single_sentences_are_continued_by_the_next() -> None:
    turns = as_turns("'Who are you?'\n\n'I hardly know.'\n\nAlone.")
    assert [t.content for t in turns] == ["'Who are you?'", "'I hardly know.'"]


@given(st.text(st.sampled_from("ab .!?\n\"'")))
def test_turns_alternate_and_are_never_empty(text: str) -> None:
    turns = as_turns(text)
    assert [t.role for t in turns] == ["user", "assistant"] * (len(turns) // 2)
    assert all(t.content.strip() for t in turns)
