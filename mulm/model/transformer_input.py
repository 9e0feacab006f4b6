"""What the Transformer accepts: token ids and masks, checked before a number is computed.

Called by `transformer` on every pass. Shape letters: B batch, T and X tokens, N heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mulm.errors import ConfigError, ContextLengthError
from mulm.model.transformer_config import TransformerConfig

_INTEGERS = (torch.int64, torch.int32)


def check_batch(ids_BX: Tensor) -> None:
    """Refuse what is no batch of rows of token ids.

    Raises:
        ConfigError: wrong shape or type.
    """
    if ids_BX.ndim != 2 or not ids_BX.numel() or ids_BX.dtype not in _INTEGERS:
        raise ConfigError(
            f"token ids of shape {tuple(ids_BX.shape)} and type {ids_BX.dtype}",
            hint="give int64 ids of shape (batch, tokens), with at least one token",
        )


def check_ids(ids_BX: Tensor, first: int, config: TransformerConfig) -> None:
    """Refuse rows that the model cannot read, their first token at position `first`.

    Ids on a GPU are not compared with the vocabulary: that would wait for the device.

    Raises:
        ConfigError: wrong shape or type, or not in the vocabulary.
        ContextLengthError: it reaches beyond the table of positions.
    """
    check_batch(ids_BX)
    end = first + ids_BX.shape[1]
    if end > config.max_seq_len:
        raise ContextLengthError(
            f"{end} tokens exceed the {config.max_seq_len} positions of the model",
            hint="give fewer tokens, or build the model with a larger max_seq_len",
        )
    if ids_BX.device.type == "cpu" and not 0 <= int(ids_BX.min()) <= int(ids_BX.max()) < (
        config.vocab_size
    ):
        raise ConfigError(
            f"token ids {int(ids_BX.min())} to {int(ids_BX.max())} are not all in the vocabulary",
            hint=f"use 0 to {config.vocab_size - 1}",
        )


def check_mask(mask: Tensor, shape_BT: torch.Size, n_keys: int, name: str) -> None:
    """Refuse a mask that does not say for B rows of T queries which of `n_keys` they may see.

    Raises:
        ConfigError: it is not boolean, or does not broadcast to (B, N, T, n_keys).
    """
    n_rows, n_queries = shape_BT
    fits = mask.dtype == torch.bool and mask.ndim in (2, 4) and mask.shape[-1] in (1, n_keys)
    fits = fits and mask.shape[-2] in (1, n_queries)
    if not fits or (mask.ndim == 4 and mask.shape[0] not in (1, n_rows)):
        raise ConfigError(
            f"{name} of shape {tuple(mask.shape)} and type {mask.dtype} does not fit"
            f" {n_rows} rows of {n_queries} queries and {n_keys} keys",
            hint="make it with create_padding_mask and create_look_ahead_mask, joined by &",
        )


def check_rows(n_rows: int, n_source_rows: int) -> None:
    """Refuse targets that are not as many as sources.

    Raises:
        ConfigError: the numbers differ.
    """
    if n_rows != n_source_rows:
        raise ConfigError(
            f"{n_rows} target rows for {n_source_rows} source rows",
            hint="give one target row for each source row",
        )
