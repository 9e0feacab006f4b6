"""Log-probabilities as OpenAI writes them: a list of objects for chats, four lists for completions.

Called by the formats of answers. Invariant: every token has a text that no other token has, so that
an object can have tokens as keys: what is no UTF-8 by itself is spelled by its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mulm.data.tokenizer import IncrementalDecoder, Tokenizer
from mulm.messages import TokenLogprob

_LEAST = -9999.0
"""What stands for the logarithm of nothing, which JSON cannot write."""


class TokenNames:
    """The text of each token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {token_id: name for name, token_id in tokenizer.special_tokens.items()}

    def bytes_of(self, token_id: int) -> bytes | None:
        """What it stands for; None for a special one."""
        return None if token_id in self._special else self._tokenizer.token_bytes(token_id)

    def name(self, token_id: int) -> str:
        """Its text, or its name where it is a special one."""
        content = self.bytes_of(token_id)
        if content is None:
            return self._special[token_id]
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def chat_logprobs(items: Iterable[TokenLogprob], names: TokenNames) -> list[dict[str, Any]]:
    """The `content` of a chat's `logprobs`."""
    return [
        _entry(item.token_id, item.logprob, names)
        | {"top_logprobs": [_entry(token_id, value, names) for token_id, value in item.top]}
        for item in items
    ]


def _entry(token_id: int, logprob: float, names: TokenNames) -> dict[str, Any]:
    content = names.bytes_of(token_id)
    return {
        "token": names.name(token_id),
        "logprob": _finite(logprob),
        "bytes": None if content is None else list(content),
    }


class LegacyLogprobs:
    """The `logprobs` of one choice of a completion, piece by piece.

    Offsets count characters of the text from its beginning, an echoed prompt included.
    """

    def __init__(self, tokenizer: Tokenizer, names: TokenNames) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._names = names
        self._offset = 0

    def piece(
        self,
        items: Sequence[TokenLogprob | None],
        token_ids: Sequence[int],
        has_alternatives: bool,
    ) -> dict[str, Any]:
        """Some tokens with what is known of each; of a document's first nothing is."""
        offsets = []
        for token_id in token_ids:
            offsets.append(self._offset)
            self._offset += len(self._decoder.push([token_id]))
        tops = [None if item is None else self._top(item) for item in items]
        return {
            "tokens": [self._names.name(token_id) for token_id in token_ids],
            "token_logprobs": [None if item is None else _finite(item.logprob) for item in items],
            "top_logprobs": tops if has_alternatives else None,
            "text_offset": offsets,
        }

    def _top(self, item: TokenLogprob) -> dict[str, float]:
        """The likeliest, and the token itself if it is not among them."""
        values = {self._names.name(token_id): _finite(value) for token_id, value in item.top}
        values.setdefault(self._names.name(item.token_id), _finite(item.logprob))
        return values


def joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All pieces of one choice as one."""
    keys = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return {
        key: None
        if any(piece[key] is None for piece in pieces)
        else [value for piece in pieces for value in piece[key]]
        for key in keys
    }


def _finite(value: float) -> float:
    return max(value, _LEAST)
