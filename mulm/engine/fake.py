"""A model in a few lines: a double for tests of the engine and of all that stands on it.

What follows depends on every token before it, and on nothing else, so a batching or caching
mistake changes the text. The cache keeps the tokens themselves and checks every position.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mulm.model.adapter import Adapter
from mulm.model.batch import PAGE_TOKENS, Batch


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """The two facts that an engine asks for."""

    vocab_size: int = 50
    max_seq_len: int = 64


class FakeCache:
    """The tokens of each page, as far as it is written."""

    def __init__(self, n_pages: int) -> None:
        self.pages: list[list[int]] = [[] for _ in range(n_pages)]

    def read(self, pages: list[int], n_tokens: int) -> tuple[int, ...]:
        """The first tokens that stand in these pages."""
        tokens = [token for page in pages for token in self.pages[page]]
        assert len(tokens) >= n_tokens, "a token was skipped"
        return tuple(tokens[:n_tokens])

    def write(self, pages: list[int], position: int, token_id: int) -> None:
        """Put a token at its place; what stood behind it in the page is gone."""
        page = self.pages[pages[position // PAGE_TOKENS]]
        at = position % PAGE_TOKENS
        assert len(page) >= at, "a sequence has a gap"
        page[at:] = [token_id]


class FakeModel:
    """Logits are a random row chosen by a hash of the sequence's whole text and the `salt`.

    A hidden state is that hash in four numbers below 2**16, so that fp32 holds it exactly.
    """

    is_batch_invariant = True

    def __init__(self, config: FakeConfig | None = None, salt: int = 0) -> None:
        self.config = config or FakeConfig()
        self.salt = salt
        self.adapters: dict[int, Adapter] = {}
        self.batches: list[list[int]] = []
        """New tokens of each sequence, for every step."""

    def make_cache(self, n_pages: int) -> FakeCache:
        """As `LanguageModel.make_cache`."""
        return FakeCache(n_pages)

    def page_bytes(self) -> int:
        """As `LanguageModel.page_bytes`."""
        return PAGE_TOKENS

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """As `LanguageModel.set_adapter`; its number alone changes what follows."""
        self.adapters[number] = adapter

    def remove_adapter(self, number: int) -> None:
        """As `LanguageModel.remove_adapter`."""
        del self.adapters[number]

    def extend(self, batch: Batch, cache: FakeCache) -> Tensor:
        """As `LanguageModel.extend`."""
        begins = batch.begins_S1.tolist()
        self.batches.append([end - begin for begin, end in pairwise(begins)])
        hidden: list[list[float]] = []
        written: set[int] = set()
        for number, pages in enumerate(batch.pages_SP.tolist()):
            mine: set[int] = set()
            adapter = -1 if batch.adapters_S is None else int(batch.adapters_S[number])
            assert adapter == -1 or adapter in self.adapters, "an adapter that is not there"
            for row in range(begins[number], begins[number + 1]):
                position = int(batch.positions_T[row])
                cache.write(pages, position, int(batch.ids_T[row]))
                mine.add(pages[position // PAGE_TOKENS])
                text = cache.read(pages, position + 1)
                hidden.append(_numbers(hash((text, self.salt, adapter))))
            assert not mine & written, "two sequences write to one page"
            written |= mine
        return torch.tensor(hidden)[batch.wanted_R.long()].reshape(-1, 4)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """As `LanguageModel.logits`."""
        rows = []
        for numbers in hidden_RD.long().tolist():
            seed = sum(number << (16 * place) for place, number in enumerate(numbers)) % 2**62
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.randn(self.config.vocab_size, generator=generator) * 2)
        return torch.stack(rows)


def _numbers(value: int) -> list[float]:
    return [float((value >> (16 * place)) & 0xFFFF) for place in range(4)]
