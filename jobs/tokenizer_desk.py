"""The tokenizers of one installation: what they are, and how they cut a text.

Opened by `mulm tokenizer`. Invariant: nothing here changes anything.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from mulm.data.tokenizer import Tokenizer
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.lineage import Relative, lineage
from mulm.records import Version
from mulm.refs import parse_ref
from mulm.store import open_store


class TokenizerDesk:
    """Reads the ledger's file and the store."""

    def __init__(self, home: Home) -> None:
        self._store = open_store(home.create())
        self._facts = Ledger(home.ledger)

    def __enter__(self) -> TokenizerDesk:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._facts.close()

    def described(self, ref: str) -> dict[str, Any]:
        """A tokenizer: its size, its special tokens, what it was made from and for.

        Raises:
            NotFoundError, CorruptError: it is not there, or damaged.
        """
        version = self._find(ref)
        tokenizer = self._open(version)
        relatives = lineage(self._store, self._facts, version.manifest_id)
        return {
            "tokenizer": version.ref,
            "tokenizer_id": version.manifest_id,
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
            "special_tokens": tokenizer.special_tokens,
            "parents": [_told(one) for one in relatives.ancestors if one.distance == 1],
            "used_by": [_told(one) for one in relatives.descendants if one.distance == 1],
        }

    def pieces(self, ref: str, text: str) -> list[tuple[int, str]]:
        """Id and text of each token of a text; half a character is U+FFFD.

        Raises:
            NotFoundError, CorruptError: the tokenizer is not there, or damaged.
        """
        tokenizer = self._open(self._find(ref))
        return [
            (one, tokenizer.token_bytes(one).decode("utf-8", "replace"))
            for one in tokenizer.encode(text)
        ]

    def _find(self, ref: str) -> Version:
        return self._facts.resolve("tokenizer", parse_ref(ref))

    def _open(self, version: Version) -> Tokenizer:
        manifest = self._store.load(version.manifest_id)
        return Tokenizer.from_bytes(self._store.read(manifest.blob("tokenizer.json")))


def _told(relative: Relative) -> dict[str, Any]:
    return {"role": relative.role, "id": relative.id, "refs": list(relative.refs)}
