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


def lost_while_free(pool: PagePool) -> None:
    pool._free.pop()


def free_twice(pool: PagePool) -> None:
    pool._free[0] = pool._free[1]


def lost_while_kept(pool: PagePool) -> None:
    pool._unused.popitem()


def free_while_held(pool: PagePool) -> None:
    held = next(n for n, page in enumerate(pool._pages) if page.n_holders)
    pool._free[0] = held


def held_once_more(pool: PagePool) -> None:
    pool._pages[pool._free[0]].n_holders += 1


def held_by_another(pool: PagePool) -> None:
    held = next(page for page in pool._pages if page.n_holders)
    held.n_holders, pool._pages[pool._free[0]].n_holders = 0, held.n_holders


def kept_under_nothing(pool: PagePool) -> None:
    del pool._by_key[next(iter(pool._by_key))]


def kept_under_anothers_name(pool: PagePool) -> None:
    one, other = pool._by_key
    pool._by_key[one], pool._by_key[other] = pool._by_key[other], pool._by_key[one]


def kept_while_free(pool: PagePool) -> None:
    number, _ = pool._unused.popitem()
    pool._free.append(number)


def unused_without_a_name(pool: PagePool) -> None:
    pool._unused[pool._free.pop()] = None


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lost_while_free, "leaked"),
        (free_twice, "free twice"),
        (lost_while_kept, "leaked"),
        (free_while_held, "held page is free"),
        (held_once_more, "holders"),
        (held_by_another, "others hold"),
        (kept_under_nothing, "cannot be found"),
        (kept_under_anothers_name, "others are found"),
        (kept_while_free, "free page can be found"),
        (unused_without_a_name, "was not kept"),
    ],
)
def test_damaged_books_are_noticed(damage, told):
    pool = PagePool(6)
    pages = kept(pool, FIRST, SECOND)
    pool.release(pages[1:])
    pool.check_integrity(pages[:1])
    damage(pool)
    with pytest.raises(AssertionError, match=told):
        pool.check_integrity(pages[:1])


def test_a_holder_that_was_forgotten_is_noticed():
    pool = PagePool(2)
    pages = kept(pool, FIRST)
    pool.hold(pages)
    pool.check_integrity(pages * 2)
    with pytest.raises(AssertionError, match="holders"):
        pool.check_integrity(pages)
