"""Documents that hold text of an evaluation, found by shared n-grams of words.

`evaluation_texts` and `ngram_hashes` are called once per build, `Evaluations` by
`mulm.data.clean.Cleaner` for each batch. Words are those of `mulm.data.texts`, so case and
punctuation make no difference. A text shorter than an n-gram cannot be found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from mulm.data.texts import Flags, Hashes, Texts, batches
from mulm.errors import DataError, NotFoundError

REASON = "contaminated"
_ROW_SUFFIXES = {".jsonl", ".ndjson"}
_SLOTS_BY_HASH = 8
_MAX_TABLE_BITS = 27


def evaluation_texts(path: str | Path) -> Iterator[str]:
    """The text of a file, or every string in its rows (JSONL) or its value (JSON).

    Raises:
        NotFoundError: there is no such file.
        DataError: it is no UTF-8, or what should be JSON is none.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"no such file: {str(path)!r}", hint="check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}") from None
    if path.suffix == ".json":
        yield from _strings(_parsed(content, repr(str(path))))
    elif path.suffix in _ROW_SUFFIXES:
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                yield from _strings(_parsed(line, f"{str(path)!r}, row {number}"))
    else:
        yield content


def ngram_hashes(texts: Iterable[str], ngram: int) -> Hashes:
    """The sorted, different hashes of all runs of `ngram` words within a (normalised) text."""
    found = [Texts(batch).words.ngrams(ngram)[0] for batch in batches(texts)]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)


class Evaluations:
    """The n-grams that no document may hold."""

    def __init__(self, hashes: Hashes, ngram: int) -> None:
        self.hashes = hashes
        self.ngram = ngram

    def reasons(self, texts: Texts) -> list[str]:
        """`REASON` for each text that shares an n-gram, else ""."""
        hashes, rows = texts.words.ngrams(self.ngram)
        possible = np.flatnonzero(self._table[self._slots(hashes)])
        places = np.searchsorted(self.hashes, hashes[possible])
        is_shared = self.hashes[np.minimum(places, len(self.hashes) - 1)] == hashes[possible]
        shared = set(rows[possible][is_shared].tolist())
        return [REASON if row in shared else "" for row in range(len(texts))]

    def __getstate__(self) -> dict[str, object]:
        return {"hashes": self.hashes, "ngram": self.ngram}

    @cached_property
    def _n_bits(self) -> int:
        return min((len(self.hashes) * _SLOTS_BY_HASH + 1).bit_length(), _MAX_TABLE_BITS)

    @cached_property
    def _table(self) -> Flags:
        """Whether a hash of a slot is there. Looking here first spares nearly all searches."""
        table = np.zeros(1 << self._n_bits, dtype=np.bool_)
        table[self._slots(self.hashes)] = True
        return table

    def _slots(self, hashes: Hashes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return (hashes >> np.uint64(64 - self._n_bits)).astype(np.int64)


def _parsed(line: str, place: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: no JSON: {error}") from None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for own in value.values():
            yield from _strings(own)
    elif isinstance(value, list):
        for own in value:
            yield from _strings(own)
