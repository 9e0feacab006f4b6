"""The preference pairs of a dataset version: batches as a pure function of (version, seed, step).

Called by training on preferences. Pairs are the documents of the version whose `messages` are
`{"chosen": [...], "rejected": [...]}`; they are encoded at the start, into five bytes a token.
Invariants: the pairs of a step are the same for any number of workers and any start step; every
pair appears once in each epoch; only what the assistant says is learned. So the only state is the
step. Needs neither torch nor numpy.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mulm.chat import Message, render_training
from mulm.data.conversations import is_pair
from mulm.data.permutation import permute
from mulm.data.tokenizer import Tokenizer
from mulm.errors import CorruptError, DataError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

Split = Literal["train", "validation"]
SIDES = ("chosen", "rejected")
MAX_HELD_BYTES = 1 << 30
"""Of encoded pairs in the memory of a worker."""
_TOKEN_BYTES = 5
_PURPOSE: Mapping[Split, str] = {"train": "train on", "validation": "judge by"}
Turn = dict[str, str]
_HINT = "build it from rows with `chosen` and `rejected`, and keep the documents of the version"


@dataclass(frozen=True, slots=True)
class Answer:
    """A conversation that begins as a document, and which of its tokens are learned."""

    ids: Sequence[int]
    learned: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two conversations of which the first is better."""

    chosen: Answer
    rejected: Answer

    @property
    def longest(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.chosen), len(self.rejected))


class PairLoader:
    """The pairs of one split of a dataset version.

    Args:
        store: Where its documents and its tokenizer lie.
        dataset: A version of kind "dataset".
        split: "train" or "validation".
        max_tokens: Pairs with a longer conversation are left out, and counted.
        seed: Chooses the order of the pairs.

    Raises:
        CorruptError: a file does not match its checksum.
        DataError: there are no pairs of that length, or more than memory is to hold.
    """

    def __init__(
        self,
        store: Store,
        dataset: Manifest,
        split: Split = "train",
        *,
        max_tokens: int,
        seed: int = 0,
    ) -> None:
        self._key = f"{dataset.id}:pairs:{split}:{seed}"
        self._ids, self._learned, self._ends = array("I"), bytearray(), array("Q", [0])
        self.n_too_long = 0
        tokenizer = Tokenizer.from_bytes(store.read(dataset.blob("tokenizer.json")))
        for messages in pairs_of(store, dataset, split):
            self._add(messages, tokenizer, max_tokens)
        if not len(self):
            raise DataError(
                f"{dataset.id} has no preference pairs to {_PURPOSE[split]}"
                f" ({self.n_too_long} have more than {max_tokens} tokens)",
                hint=_HINT if not self.n_too_long else "use a longer seq_len",
            )

    def __len__(self) -> int:
        return (len(self._ends) - 1) // 2

    def batch(self, step: int, n_pairs: int, start: int = 0, stop: int | None = None) -> list[Pair]:
        """Pairs [start, stop) of the `n_pairs` of a step; steps count from 0."""
        positions = range(step * n_pairs, (step + 1) * n_pairs)[start:stop]
        return [self._pair(self._place(position)) for position in positions]

    def longest(self, step: int, n_pairs: int) -> int:
        """Tokens of the longest conversation of a step."""
        return max(pair.longest for pair in self.batch(step, n_pairs))

    def iter_validation(self, n_pairs: int, start: int = 0, step: int = 1) -> Iterator[list[Pair]]:
        """All pairs in order; workers share them: batch `start`, then every `step`-th."""
        for first in range(start * n_pairs, len(self), step * n_pairs):
            yield [self._pair(i) for i in range(first, min(first + n_pairs, len(self)))]

    def _place(self, position: int) -> int:
        epoch, index = divmod(position, len(self))
        return permute(index, len(self), f"{self._key}:{epoch}")

    def _pair(self, number: int) -> Pair:
        return Pair(self._answer(2 * number), self._answer(2 * number + 1))

    def _answer(self, number: int) -> Answer:
        own = slice(self._ends[number], self._ends[number + 1])
        return Answer(self._ids[own], self._learned[own])

    def _add(self, messages: str, tokenizer: Tokenizer, max_tokens: int) -> None:
        values = json.loads(messages)
        n_shared = _n_shared(*(values[side] for side in SIDES))
        answers = [_encode(values[side], n_shared, tokenizer) for side in SIDES]
        if max(map(len, answers)) > max_tokens:
            self.n_too_long += 1
            return
        for answer in answers:
            self._ids.extend(answer.ids)
            self._learned.extend(answer.learned)
            self._ends.append(len(self._ids))
        if _TOKEN_BYTES * len(self._ids) > MAX_HELD_BYTES:
            raise DataError(
                f"the pairs take more than {MAX_HELD_BYTES >> 20} MiB when encoded",
                hint="build the dataset from fewer pairs, or use a shorter seq_len",
            )


def require_pairs(store: Store, dataset: Manifest) -> None:
    """Find now, without encoding, what `PairLoader` would refuse.

    Raises:
        CorruptError: a file does not match its checksum.
        DataError: one of the splits has no pairs.
    """
    store.read(dataset.blob("tokenizer.json"))
    for split, purpose in _PURPOSE.items():
        if next(pairs_of(store, dataset, split), None) is None:
            raise DataError(f"{dataset.id} has no preference pairs to {purpose}", hint=_HINT)


def pairs_of(store: Store, dataset: Manifest, split: Split) -> Iterator[str]:
    """The pairs of a split as JSON, in the order of the version's documents.

    Raises:
        CorruptError: a file does not match its checksum, or decisions do not fit the documents.
        DataError: the version does not know its documents.
    """
    if "documents" not in dataset.parents:
        raise DataError(f"{dataset.id} has no documents that could be pairs", hint=_HINT)
    documents = store.load(dataset.parents["documents"])
    chunks = [entry for entry in documents.blobs if entry.name.startswith("chunk-")]
    if not chunks:
        return
    decided, first = _decided(store, documents, split), 0
    if len(decided) != sum(entry.rows for entry in chunks):
        raise CorruptError(f"{documents.id} holds other documents than it decided of")
    for entry in chunks:
        own = decided[first : first + entry.rows]
        first += entry.rows
        for messages, is_own in zip(_messages(store, entry), own, strict=True):
            if is_own and is_pair(messages):
                yield messages


def _decided(store: Store, documents: Manifest, split: Split) -> list[bool]:
    """Which documents are on that side, read as `mulm.data.decisions` writes it, without numpy."""
    head, _, body = store.read(documents.blob("decisions.bin")).partition(b"\n")
    try:
        values = json.loads(head)
        names, n = values["names"], int(values["n"])
    except (ValueError, KeyError, TypeError):
        raise CorruptError(f"the decisions of {documents.id} cannot be read") from None
    code = names.index(split) if split in names else -1
    return [own == code for own in body[:n]]


def _messages(store: Store, entry: BlobEntry) -> list[str]:
    table = pq.read_table(pa.BufferReader(store.read(entry)), columns=["messages"])
    messages: list[str] = table["messages"].to_pylist()
    return messages


def _n_shared(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> int:
    """How many turns both sides begin with: the question, and what was said before it."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    return next((n for n, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))


def _encode(turns: Sequence[Turn], n_shared: int, tokenizer: Tokenizer) -> Answer:
    """What both sides begin with is read, and not learned."""
    messages = [Message.model_validate(turn) for turn in turns]
    ids, learned = render_training(messages, tokenizer)
    n_read = len(render_training(messages[:n_shared], tokenizer)[0])
    return Answer([tokenizer.end_of_text_id, *ids], [0] * (1 + n_read) + learned[n_read:])
