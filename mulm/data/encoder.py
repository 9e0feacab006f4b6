"""The encoder: texts to token ids as fast as can be, for the dataset build.

Encodes with tiktoken what our tokenizer would encode, four times as fast (`docs/log.md`). The two
are compared on a sample of every batch; where they differ, or where a tokenizer cuts text in a way
that tiktoken cannot, the tokenizer itself encodes. Invariant: the ids are those of
`Tokenizer.encode`, as far as tests and the samples show.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import tiktoken

from mulm.data.foreign_tokenizer import split_patterns, why_not
from mulm.data.tokenizer import Tokenizer
from mulm.errors import DataError

_log = logging.getLogger(__name__)

_COMPARED_CHARS = 4_096
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Ids = np.ndarray[tuple[int], np.dtype[np.uint32]]


class Encoder:
    """Encodes many texts on one core."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._fast = _tiktoken(tokenizer)
        self._composes = _composes(tokenizer)

    @property
    def is_fast(self) -> bool:
        """Whether tiktoken can cut and merge as the tokenizer does."""
        return self._fast is not None

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, never special ones."""
        if not self.is_fast or not self._agrees(texts):
            return [self._slow(text) for text in texts]
        return [self._quick(text) for text in texts]

    def _quick(self, text: str) -> Ids:
        assert self._fast is not None
        if self._composes:
            text = unicodedata.normalize("NFC", text)
        try:
            return self._fast.encode_to_numpy(text, disallowed_special=())
        except (ValueError, UnicodeError):  # a regular expression out of room, a lone surrogate
            return self._slow(text)

    def _slow(self, text: str) -> Ids:
        return np.array(self.tokenizer.encode(text), np.uint32)

    def _agrees(self, texts: Sequence[str]) -> bool:
        sample = _head(texts)
        if all(np.array_equal(self._quick(text), self._slow(text)) for text in sample):
            return True
        _log.warning("tiktoken differs tokenizer=%s", self.tokenizer.fingerprint)
        return False


@lru_cache(maxsize=2)
def encoder_of(tokenizer_json: bytes) -> Encoder:
    """The encoder of a `tokenizer.json`; made once in a process."""
    return Encoder(Tokenizer.from_bytes(tokenizer_json))


def _head(texts: Sequence[str]) -> list[str]:
    """The beginnings of some texts, spread over all of them."""
    step = max(1, len(texts) // 8)
    return [text[: _COMPARED_CHARS // 8] for text in texts[::step]]


def _tiktoken(tokenizer: Tokenizer) -> tiktoken.Encoding | None:
    values = json.loads(tokenizer.to_bytes())
    if why_not(values):
        return None
    try:
        patterns = split_patterns(values)
    except DataError:
        return None
    if len(patterns) != 1 or patterns[0] == "digits":
        return None
    special = set(tokenizer.special_tokens.values())
    added = {token["id"] for token in values.get("added_tokens", ())}
    if added - special:
        return None  # found in a text before it is cut, which tiktoken does not do
    ranks: dict[bytes, int] = {}
    for token_id in range(tokenizer.vocab_size):
        if token := tokenizer.token_bytes(token_id):
            ranks.setdefault(token, token_id)
    if len({bytes([byte]) for byte in range(256)} - ranks.keys()):
        return None
    pattern = _GPT2_PATTERN if patterns[0] == "gpt-2" else patterns[0]
    return tiktoken.Encoding(
        tokenizer.fingerprint, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )


def _composes(tokenizer: Tokenizer) -> bool:
    values = json.loads(tokenizer.to_bytes())
    return (values.get("normalizer") or {}).get("type") == "NFC"
