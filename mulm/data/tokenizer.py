"""The tokenizer: byte-level BPE, with 32 reserved special tokens where it is trained here.

Called by the dataset build, the chat template, the ingress and whoever turns ids into text.
Invariants: text alone never yields a special id, whatever it spells; `decode(encode(text))`
is `text`; the fingerprint names the exact tokenizer and travels with all made from it.
Lone surrogates are no text (UTF-8 has no bytes for them): they are read as U+FFFD.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from mulm.chat_format import ChatFormat, nearest_format
from mulm.config import canonical_json
from mulm.data.recipe import MIN_VOCAB_SIZE, N_SPECIAL
from mulm.errors import (
    ConfigError,
    CorruptError,
    DataError,
    TokenizerMismatchError,
    UnknownNameError,
    nearest,
)

_NAMED = (
    "<|endoftext|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|tool_result|>",
    "<|/tool_result|>",
    "<|think|>",
    "<|/think|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
)
SPECIAL_TOKENS: tuple[str, ...] = _NAMED + tuple(
    f"<|reserved_{k}|>" for k in range(N_SPECIAL - len(_NAMED))
)

# The pattern of GPT-4 and Llama 3: words take the space before them, at most three digits
# stand together, line ends stand alone. Inference engines elsewhere know it by name.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to token ids and back. Immutable; pickles by its bytes, which name it for ever."""

    def __init__(self, backend: Backend, content: bytes | None = None) -> None:
        # Special tokens spelled out in a text are read as the plain characters they are.
        backend.encode_special_tokens = True
        # A file may carry how its makers cut and filled their last batch.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        # Not what the backend would write today: another release may add fields.
        self._bytes = canonical_json(json.loads(content or backend.to_str()))
        self._id_by_special = _special_ids(backend)
        self.chat_format = _chat_format(self._id_by_special)
        self._bytes_by_id = _token_bytes(backend)
        self.longest_bytes = max(map(len, self._bytes_by_id))
        """Of any one token: so many bytes of text have at least one."""
        self.fingerprint = hashlib.sha256(self._bytes).hexdigest()[:24]

    @classmethod
    def from_bytes(cls, tokenizer_json: bytes) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            CorruptError: the bytes are no byte-level tokenizer with the tokens of a conversation.
        """
        try:
            return cls(Backend.from_str(tokenizer_json.decode()), tokenizer_json)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - the backend raises bare exceptions
            raise CorruptError(
                f"not a tokenizer of ours: {error}", hint="train or fetch the tokenizer again"
            ) from None

    def to_bytes(self) -> bytes:
        """The canonical `tokenizer.json`."""
        return self._bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tokenizer.from_bytes, (self._bytes,))

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return len(self._bytes_by_id)

    @property
    def end_of_text_id(self) -> int:
        """Begins every document, so that it also ends the one before.

        `<|endoftext|>`, or what a foreign format has in its place.
        """
        return self._id_by_special[self.chat_format.document_begin]

    @property
    def pad_id(self) -> int:
        """`<|pad|>`, or the end of text where there is none: fills, and is never learned."""
        names = (*self.chat_format.pads, self.chat_format.text_end)
        return next(self._id_by_special[name] for name in names if name in self._id_by_special)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token by its name."""
        return dict(self._id_by_special)

    @property
    def turn_end_id(self) -> int:
        """Ends a message of a conversation, in whatever format."""
        return self._id_by_special[self.chat_format.turn_end]

    @property
    def text_stop_ids(self) -> tuple[int, ...]:
        """What ends a text that is no conversation."""
        return tuple(self._id_by_special[name] for name in self.chat_format.text_ends)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer: the end of its turn, first, or of the text."""
        others = self.chat_format.other_ends
        known = [self._id_by_special[name] for name in others if name in self._id_by_special]
        return (self.turn_end_id, *self.text_stop_ids, *known)

    def id_of(self, special: str) -> int:
        """The id of a special token.

        Raises:
            UnknownNameError: there is none of that name.
        """
        if special not in self._id_by_special:
            hint = nearest(special, self._id_by_special)
            raise UnknownNameError(f"no special token {special!r}", hint=hint)
        return self._id_by_special[special]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, never special ones."""
        # As a batch of one: it computes no offsets, and other threads go on meanwhile.
        (encoding,) = self._backend.encode_batch_fast([_valid(text)], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores unless `TOKENIZERS_PARALLELISM=false`."""
        valid = [_valid(text) for text in texts]
        batch = self._backend.encode_batch_fast(valid, add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; broken UTF-8 becomes U+FFFD, special ids are skipped."""
        return b"".join([self.token_bytes(i) for i in ids]).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for a special one.

        None either for an id beyond the last: foreign models round their embeddings up.
        """
        return self._bytes_by_id[token_id] if token_id < len(self._bytes_by_id) else b""

    def require(self, fingerprint: str | None, what: str) -> None:
        """Refuse to work together with `what` if it was made with another tokenizer.

        Raises:
            TokenizerMismatchError: the fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise TokenizerMismatchError(
                f"{what} was made with the tokenizer {fingerprint}, this one is {self.fingerprint}",
                hint="use the tokenizer it was made with, or build it again with this one",
                expected=fingerprint,
                found=self.fingerprint,
            )


class IncrementalDecoder:
    """Ids to text as they come, a character at a time and never half a one.

    The pieces joined are exactly `tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """The text that became complete with these ids; may be empty."""
        return self._decoder.decode(b"".join([self._tokenizer.token_bytes(i) for i in ids]))

    def finish(self) -> str:
        """What a character cut short leaves: U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a tokenizer; the same texts give the same bytes.

    Args:
        texts: The training text only, never the held-out one.
        vocab_size: Number of ids with the special ones; a multiple of 64 suits GPUs.

    Raises:
        ConfigError: `vocab_size` has no room for the bytes.
        DataError: the text is too small for that many tokens.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            f"vocab_size {vocab_size} is too small",
            hint=f"{N_SPECIAL} special tokens and 256 bytes need at least {MIN_VOCAB_SIZE}",
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((_valid(text) for text in texts), trainer)
    _require_full(backend.get_vocab_size(), vocab_size)
    return Tokenizer(backend)


def _require_full(found: int, asked: int) -> None:
    if found < asked:
        raise DataError(
            f"vocab_size {asked} is too large for this corpus: it gives {found} tokens",
            hint=f"set tokenizer.vocab_size to {max(MIN_VOCAB_SIZE, found // 64 * 64)} or add text",
            found=found,
        )


def _special_ids(backend: Backend) -> dict[str, int]:
    added = backend.get_added_tokens_decoder()
    ids = {token.content: token_id for token_id, token in added.items() if token.special}
    return dict(sorted(ids.items(), key=lambda item: item[1]))


def _chat_format(id_by_special: dict[str, int]) -> ChatFormat:
    form, missing = nearest_format(id_by_special)
    if missing:
        raise CorruptError(f"no special token {missing[0]!r} inside")
    return form


def _token_bytes(backend: Backend) -> list[bytes]:
    byte_by_char = _byte_by_char()
    added = backend.get_added_tokens_decoder()
    n_ids = max(backend.get_vocab().values(), default=-1) + 1
    tokens = (backend.id_to_token(i) or "" for i in range(n_ids))
    return [
        (b"" if added[i].special else token.encode())
        if i in added
        else bytes([byte_by_char[char] for char in token])
        for i, token in enumerate(tokens)
    ]


def _byte_by_char() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones stand for themselves, others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def _valid(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text
