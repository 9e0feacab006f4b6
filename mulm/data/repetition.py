"""The repetition rules of Gopher, over a batch of texts.

One of the families of `mulm.data.quality`. An n-gram can only be there twice if the (n - 1)-gram
that it begins with is: so each length looks only at places that the one before has left, and in
most text few are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mulm.data.texts import WORD_FACTOR, Flags, Hashes, Numbers, Texts, mixed

MAX_DUPLICATE_PART = 0.30
MAX_DUPLICATE_CHARS = 0.20
MAX_TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
MAX_DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_MAX_TABLE_BITS = 20


@dataclass(frozen=True, slots=True)
class Repeated:
    """The runs of n words that are more than once in their text.

    Run r begins at word `places[r]` and is an instance of n-gram `groups[r]`; groups are numbered
    from 0, and `is_later[r]` says whether the same n-gram is in the text before.
    """

    n: int
    places: Numbers
    groups: Numbers
    is_later: Flags


def gopher_repetition(texts: Texts) -> list[str]:
    """Rae et al. 2021, "Scaling Language Models", table A1: the first bound that is passed.

    Parts of characters are parts of the whole text. What an n-gram covers more than once counts
    once; the first of equal n-grams does not count.
    """
    reasons = [_repeated_blocks(text, texts.lines[row]) for row, text in enumerate(texts.texts)]
    n_chars = np.maximum(texts.n_chars, 1)
    for repeated in repeated_ngrams(texts):
        if bound := MAX_TOP_NGRAM.get(repeated.n):
            name, n_found = f"gopher_top_{repeated.n}_gram", top_ngram_chars(texts, repeated)
        else:
            bound = MAX_DUPLICATE_NGRAMS[repeated.n]
            name = f"gopher_duplicate_{repeated.n}_grams"
            n_found = duplicate_ngram_chars(texts, repeated)
        for row in np.flatnonzero(n_found / n_chars > bound).tolist():
            reasons[row] = reasons[row] or name
    return reasons


def duplicate_chars(blocks: Sequence[str]) -> int:
    """Characters of blocks (lines, paragraphs) that equal an earlier one."""
    different = set(blocks)
    if len(different) == len(blocks):
        return 0
    return sum(map(len, blocks)) - sum(map(len, different))


def repeated_ngrams(texts: Texts) -> Iterator[Repeated]:
    """The repeated n-grams of all texts, for each n that has a bound."""
    words = texts.words
    rows = words.rows
    places: Numbers = np.arange(len(rows))
    sums = words.hashes.copy()
    for n in range(2, max(MAX_DUPLICATE_NGRAMS) + 1):
        is_inside = places + n <= words.firsts[rows[places] + 1]
        places, sums = places[is_inside], sums[is_inside]
        sums = sums * WORD_FACTOR + words.hashes[places + n - 1]
        keys = mixed(sums + mixed(rows[places].astype(np.uint64)))
        candidates = _may_repeat(keys)
        places, sums, keys = places[candidates], sums[candidates], keys[candidates]
        repeated, chosen = _grouped(n, places, keys)
        yield repeated
        places, sums = places[chosen], sums[chosen]


def top_ngram_chars(texts: Texts, repeated: Repeated) -> Numbers:
    """By text, all characters of its most frequent n-gram, with the spaces between words.

    Of several that are most frequent the longest counts.
    """
    result = np.zeros(len(texts), dtype=np.int64)
    if not len(repeated.places):
        return result
    first_of_group = np.flatnonzero(~repeated.is_later)
    groups = repeated.groups[first_of_group]
    places = repeated.places[first_of_group]
    n_times = np.bincount(repeated.groups)[groups]
    n_chars = _run_chars(texts, places, repeated.n) + repeated.n - 1
    rows = texts.words.rows[places]
    order = np.lexsort((n_chars, n_times))
    result[rows[order]] = (n_times * n_chars)[order]  # the last one written is the greatest
    return result


def duplicate_ngram_chars(texts: Texts, repeated: Repeated) -> Numbers:
    """By text, the characters of all words within n-grams that are in the text before."""
    n_words = len(texts.words.hashes)
    later = repeated.places[repeated.is_later]
    if not len(later):
        return np.zeros(len(texts), dtype=np.int64)
    begun = np.bincount(later, minlength=n_words + 1)
    ended = np.bincount(later + repeated.n, minlength=n_words + 1)
    is_covered = np.cumsum(begun - ended)[:n_words] > 0
    return texts.words.sums(texts.word_chars * is_covered)


def _run_chars(texts: Texts, places: Numbers, n: int) -> Numbers:
    """Characters of the n words from each place on."""
    until: Numbers = np.concatenate([[0], np.cumsum(texts.word_chars)])
    chars: Numbers = until[places + n] - until[places]
    return chars


def _repeated_blocks(text: str, lines: list[str]) -> str:
    paragraphs = [own for own in map(str.strip, text.split("\n\n")) if own]
    for name, blocks in (("paragraph", paragraphs), ("line", lines)):
        n_duplicates = len(blocks) - len(set(blocks))
        if n_duplicates > MAX_DUPLICATE_PART * len(blocks):
            return f"gopher_duplicate_{name}s"
        if n_duplicates and duplicate_chars(blocks) > MAX_DUPLICATE_CHARS * len(text):
            return f"gopher_duplicate_{name}_characters"
    return ""


def _may_repeat(keys: Hashes) -> Numbers:
    """Places of all keys that are there twice, and of some that are not: a table is fast."""
    n_bits = min(len(keys).bit_length() + 3, _MAX_TABLE_BITS)
    slots = (keys >> np.uint64(64 - n_bits)).astype(np.int64)
    is_shared = np.bincount(slots, minlength=1 << n_bits) > 1
    return np.flatnonzero(is_shared[slots])


def _grouped(n: int, places: Numbers, keys: Hashes) -> tuple[Repeated, Numbers]:
    """The places whose key is there twice, and where they stand among those given."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_later = np.concatenate([[False], ordered[1:] == ordered[:-1]])[: len(keys)]
    is_member = is_later.copy()
    is_member[:-1] |= is_later[1:]
    is_later = is_later[is_member]
    members = order[is_member]
    groups = np.cumsum(~is_later) - 1
    return Repeated(n, places[members], groups, is_later), np.sort(members)
