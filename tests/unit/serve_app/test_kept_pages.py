from __future__ import annotations

from serve_app.kept_pages import KeptPages


def test_the_first_pieces_are_found_as_far_as_they_are_there():
    kept = KeptPages()
    kept.note([1, 2, 3], None)
    assert [kept.n_found(marks) for marks in ([1, 2, 3, 4], [1, 2], [1, 7, 3], [7], [])] == [
        3, 2, 1, 0, 0,
    ]  # fmt: skip


def test_what_was_longest_unused_goes_first_and_ends_before_beginnings():
    kept = KeptPages()
    kept.note([1, 2, 3], 6)
    kept.note([4, 5, 6], 6)
    kept.note([1, 2, 7], 6)
    assert kept.n_found([1, 2, 3]) == 2, "3 was not used again"
    assert kept.n_found([4, 5, 6]) == 3
    kept.note([8], 6)
    assert kept.n_found([4, 5, 6]) == 2
    assert kept.n_found([1, 2, 7]) == 3
    kept.note(range(10, 20), 6)
    assert kept.n_found(range(10, 20)) == 6, "of more than there is room for, the beginning"
