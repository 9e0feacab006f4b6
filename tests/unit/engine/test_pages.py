from __future__ import annotations

import pytest

from mulm.engine.pages import PagePool, pages_for

FIRST, SECOND, OTHER = (tuple(range(n, n + 16)) for n in (0, 100, 200))


def kept(pool: PagePool, *contents: tuple[int, ...]) -> list[int]:
    """Pages with these contents, one after the other, held."""
    pages = pool.allocate(len(contents))
    before: object = "root"
    for page, tokens in zip(pages, contents, strict=True):
        before = pool.keep(page, before, tokens)
    return pages


def test_counts_whole_pages():
    assert [pages_for(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_finds_the_longest_beginning():
    pool = PagePool(4)
    pages = kept(pool, FIRST, SECOND)
    assert pool.find("root", [*FIRST, *SECOND, 7]) == pages
    assert pool.find("root", [*FIRST, *OTHER]) == pages[:1]
    assert pool.find("root", FIRST[:15]) == []
    assert pool.find("another root", FIRST) == []


def test_a_page_is_found_only_behind_what_it_was_computed_behind():
    pool = PagePool(4)
    kept(pool, FIRST, SECOND)
    assert pool.find("root", [*OTHER, *SECOND]) == []
    assert pool.find("root", SECOND) == []


def test_unused_pages_stay_until_their_room_is_needed_the_last_go_first():
    pool = PagePool(2)
    pages = kept(pool, FIRST, SECOND)
    pool.release(pages)
    assert pool.n_free == 2
    assert pool.allocate(1) == [pages[1]]
    assert pool.find("root", [*FIRST, *SECOND]) == pages[:1]


def test_found_pages_are_no_room_for_new_ones():
    pool = PagePool(2)
    pages = kept(pool, FIRST)
    pool.release(pages)
    assert pool.can_allocate(2)
    assert not pool.can_allocate(2, found=pages)
    pool.hold(pages)
    pool.check_integrity(pages)
    assert not pool.can_allocate(2)


def test_the_same_content_twice_is_found_once():
    pool = PagePool(3)
    first, second = kept(pool, FIRST), kept(pool, FIRST)
    assert pool.find("root", FIRST) == first
    pool.release(second)
    pool.check_integrity(first)
    assert pool.n_free == 2


def test_what_follows_an_evicted_page_is_not_found_behind_its_successor():
    pool = PagePool(3)
    pages = kept(pool, FIRST, SECOND)
    pool.release(pages[:1])
    pool.allocate(2)  # takes the first one's room
    assert pool.find("root", [*FIRST, *SECOND]) == []


def test_forgotten_pages_are_free():
    pool = PagePool(2)
    pages = kept(pool, FIRST, SECOND)
    pool.release(pages[1:])
    pool.forget()
    assert pool.find("root", [*FIRST, *SECOND]) == []
    pool.check_integrity(pages[:1])


def test_a_page_released_twice_is_a_bug():
    pool = PagePool(1)
    pages = pool.allocate(1)
    pool.release(pages)
    with pytest.raises(AssertionError, match="twice"):
        pool.release(pages)
