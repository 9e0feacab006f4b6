"""Who holds which pages of keys and values, and which of them can be used again.

Called by the scheduler. A page that is full is kept under (the page before it, its tokens), so a
prompt that begins like an earlier one finds its pages; what nobody holds stays until its room is
needed, the longest unused first. Invariants: a page is free, unused or held, never two of them; a
kept page is found by exactly the tokens that it was computed from (`check_integrity`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from mulm.model.batch import PAGE_TOKENS

Key = tuple[Hashable, tuple[int, ...]]


@dataclass(slots=True)
class _Page:
    n_holders: int = 0
    key: Key | None = None
    serial: int = 0
    """Names what the page holds; never used again, so the pages after it cannot be mistaken."""


class PagePool:
    """`n_pages` pages."""

    def __init__(self, n_pages: int) -> None:
        self.n_pages = n_pages
        self._pages = [_Page() for _ in range(n_pages)]
        self._free = list(range(n_pages - 1, -1, -1))
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._by_key: dict[Key, int] = {}
        self._n_serials = 0

    @property
    def n_free(self) -> int:
        """Pages that can be allocated, those that are only kept among them."""
        return len(self._free) + len(self._unused)

    def find(self, root: Hashable, token_ids: Sequence[int]) -> list[int]:
        """The kept pages that hold a beginning of these tokens, in order."""
        found: list[int] = []
        before = root
        for tokens in _whole_pages(token_ids):
            page = self._by_key.get((before, tokens))
            if page is None:
                break
            found.append(page)
            before = self._pages[page].serial
        return found

    def can_allocate(self, n_pages: int, found: Sequence[int] = ()) -> bool:
        """Whether there is room for that many beside those that were found."""
        n_reused = sum(1 for page in found if not self._pages[page].n_holders)
        return n_pages <= self.n_free - n_reused

    def hold(self, found: Sequence[int]) -> None:
        """Hold pages that `find` gave."""
        for number in found:
            page = self._pages[number]
            if not page.n_holders:
                del self._unused[number]
            page.n_holders += 1

    def allocate(self, n_pages: int) -> list[int]:
        """New pages, held; only after `can_allocate`."""
        return [self._take() for _ in range(n_pages)]

    def keep(self, number: int, before: Hashable, tokens: Sequence[int]) -> Hashable:
        """Let a full page, which follows `before`, be found; gives what the next one follows.

        Another page with the same content stays the one that is found.
        """
        key = (before, tuple(tokens))
        known = self._by_key.get(key)
        if known is not None:
            return self._pages[known].serial
        page = self._pages[number]
        assert page.n_holders, "a page is kept by who holds it"
        assert page.key is None, "a page is kept twice"
        self._n_serials += 1
        page.key, page.serial = key, self._n_serials
        self._by_key[key] = number
        return page.serial

    def serial(self, number: int) -> Hashable:
        """What the page after a kept one follows."""
        assert self._pages[number].key is not None
        return self._pages[number].serial

    def release(self, pages: Sequence[int]) -> None:
        """Hold these no longer; the last of them are used again first."""
        for number in reversed(pages):
            page = self._pages[number]
            assert page.n_holders > 0, "a page was released twice"
            page.n_holders -= 1
            if not page.n_holders:
                if page.key is None:
                    self._free.append(number)
                else:
                    self._unused[number] = None

    def forget(self) -> None:
        """Find nothing again of what was computed until now."""
        for number in self._by_key.values():
            self._pages[number].key = None
        self._by_key.clear()
        self._free.extend(self._unused)
        self._unused.clear()

    def check_integrity(self, held: Sequence[int]) -> None:
        """Assert that holders add up; `held` names a page once for each of them."""
        pages, counts = self._pages, Counter(held)
        n_holders = sum(page.n_holders for page in pages)
        assert n_holders == len(held), "holders do not add up"
        assert all(pages[n].n_holders == count for n, count in counts.items()), "others hold them"
        n_kept = sum(page.key is not None for page in pages)
        assert n_kept == len(self._by_key), "kept pages cannot be found"
        assert all(pages[n].key == key for key, n in self._by_key.items()), "others are found"
        unused, free = [[pages[n] for n in each] for each in (self._unused, self._free)]
        assert not any(page.n_holders for page in (*unused, *free)), "a held page is free"
        assert all(page.key is not None for page in unused), "what is unused was not kept"
        assert all(page.key is None for page in free), "a free page can be found"
        assert len(set(self._free)) == len(free), "a page is free twice"
        # None is in two places by now, so they are all there if the numbers are right.
        assert len(counts) + len(unused) + len(free) == self.n_pages, "pages leaked"

    def _take(self) -> int:
        if self._free:
            number = self._free.pop()
        else:
            number, _ = self._unused.popitem(last=False)
            page = self._pages[number]
            assert page.key is not None
            del self._by_key[page.key]
            page.key = None
        self._pages[number].n_holders = 1
        return number


def pages_for(n_tokens: int) -> int:
    """How many pages that many tokens take."""
    return -(-n_tokens // PAGE_TOKENS)


def _whole_pages(token_ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for begin in range(0, len(token_ids) - PAGE_TOKENS + 1, PAGE_TOKENS):
        yield tuple(token_ids[begin : begin + PAGE_TOKENS])
