"""What one step of the engine asks of a model: new tokens of several sequences, and their pages.

Made by the engine's runner, read by every model that it can run. Keys and values lie in pages of
`PAGE_TOKENS` tokens; a row of the page table says which pages hold a sequence, in order. Invariant:
rows never share a page that one of them writes to.
Shape letters: T new tokens of all sequences, one sequence after the other, S sequences, R wanted
rows, P pages of one sequence, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mulm.model.adapter import Adapter

PAGE_TOKENS = 16
PIECE_PAGES = 16
"""Pages that attention over `Rows` takes at once where it must not matter how many there are."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The new tokens of a step; prompts and running streams alike.

    All tensors are int32 and on the CPU, contiguous: `ids_T`, the tokens' `positions_T`,
    `begins_S1`, where each sequence's tokens begin in T and at last T itself, `pages_SP`, the pages
    that hold each sequence up to its last new token (the rest of a row is undefined), and
    `wanted_R`, the rows of T whose hidden states are asked for. `adapters_S` names each sequence's
    LoRA adapter by its number, -1 for none; None where nobody has one.
    """

    ids_T: Tensor
    positions_T: Tensor
    begins_S1: Tensor
    pages_SP: Tensor
    wanted_R: Tensor
    adapters_S: Tensor | None = None

    @classmethod
    def of(cls, *parts: tuple[Sequence[int], int, Sequence[int]], wants_all: bool = False) -> Batch:
        """A batch of (ids, position of the first, pages) of each sequence.

        Wanted are the last row of each, or all.
        """
        begins = [0, *accumulate(len(ids) for ids, _, _ in parts)]
        positions = [at + n for ids, at, _ in parts for n in range(len(ids))]
        width = max(len(pages) for _, _, pages in parts)
        table = [[*pages, *[0] * (width - len(pages))] for _, _, pages in parts]
        wanted = range(begins[-1]) if wants_all else [end - 1 for end in begins[1:]]
        all_ids = [token_id for ids, _, _ in parts for token_id in ids]
        values = (all_ids, positions, begins, table, list(wanted))
        return cls(*(torch.tensor(x, dtype=torch.int32) for x in values))


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens, each a row by itself, in buffers of a fixed shape on the model's device.

    `ids_B` and `positions_B` are int32, as is `pages_BP`: for each row the pages of its sequence
    (beyond those up to its token the rest is undefined). Tokens of one sequence may be several
    rows, in any order. Rows that pad have position 0 in `spare_page`, which no sequence holds.
    With `is_invariant` a row's numbers may hang on no other row and not on how wide the table is;
    P is then a multiple of `PIECE_PAGES`. `adapters` are the numbers of the adapters that rows
    have, and `adapters_B` says which one, -1 for none.
    """

    ids_B: Tensor
    positions_B: Tensor
    adapters_B: Tensor
    pages_BP: Tensor
    spare_page: int
    is_invariant: bool = False
    adapters: tuple[int, ...] = ()


class LanguageModel(Protocol):
    """What the engine asks of a model; a tiny fake one serves in tests."""

    config: Any
    """Has at least `vocab_size` and `max_seq_len`."""

    is_batch_invariant: bool
    """Whether `extend` gives a row the same bits whatever is beside it."""

    def make_cache(self, n_pages: int) -> Any:
        """Memory for the keys and values of `n_pages` pages; undefined until written."""

    def page_bytes(self) -> int:
        """Memory that one page takes in all layers."""

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """Put a LoRA adapter in the place of any that has that number in `Batch.adapters_S`.

        Raises:
            ConfigError: it is for another shape; nothing has changed.
        """

    def remove_adapter(self, number: int) -> None:
        """Forget an adapter that was set."""

    def extend(self, batch: Batch, cache: Any) -> Tensor:
        """Read the batch's tokens, store their keys and values, attend to all that stands before.

        Returns:
            hidden_RD, the wanted rows after the last norm, in the model's own type and place.
        """

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """logits_RV of rows that `extend` returned, in fp32 or in the model's own type."""


@runtime_checkable
class RowModel(LanguageModel, Protocol):
    """A `LanguageModel` that also reads tokens as rows, by work that can be recorded and repeated.

    The device is never asked what a tensor holds, and nothing is sent to it.
    """

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def read_rows(self, rows: Rows, cache: Any) -> Tensor:
        """As `extend`, of all rows: hidden_BD."""
