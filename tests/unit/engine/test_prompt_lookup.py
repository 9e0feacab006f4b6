from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.engine.prompt_lookup import Runs


def simply(ids: list[int], count: int) -> list[int]:
    """What a search through the whole text finds."""
    for size in (4, 3, 2):
        for end in range(len(ids) - 1, size - 1, -1):
            if len(ids) >= size and ids[end - size : end] == ids[-size:]:
                text = list(ids)
                for n in range(count):
                    text.append(text[end + n])
                return text[len(ids) :]
    return []


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 9), st.integers(0, 60))
def test_it_is_the_newest_place_of_the_longest_run(ids, count, n_first):
    text = ids[:n_first]
    runs = Runs(text)
    runs.following(count)
    for token_id in ids[n_first:]:
        text.append(token_id)
        runs.following(1)
    assert runs.following(count) == simply(ids, count)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([], []),
        ([1], []),
        ([1, 2, 3], []),
        ([5, 6, 7, 8, 5, 6], [7, 8, 5, 6]),
        ([1, 2, 9, 1, 2, 8, 1, 2], [8, 1, 2, 8]),
        ([3, 1, 2, 9, 4, 1, 2, 8, 3, 1, 2], [9, 4, 1, 2]),
        ([7, 7, 7], [7, 7, 7, 7]),
    ],
)
def test_guesses_go_on_as_the_text_did(ids, found):
    assert Runs(ids).following(4) == found


def test_a_token_costs_the_same_in_a_long_text():
    class Counted(list):
        n_read = 0

        def __getitem__(self, at):
            Counted.n_read += 1
            return super().__getitem__(at)

    text = Counted(range(5000))
    runs = Runs(text)
    runs.following(4)
    Counted.n_read = 0
    for token_id in range(10):
        text.append(token_id)
        runs.following(4)
    assert Counted.n_read < 150
