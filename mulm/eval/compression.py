"""How well a model predicts held-out text, in bits per byte, and how well `xz` does.

Called by the training loop (validation) and by `jobs.evaluate`. Bits per byte do not depend
on the tokenizer, so models with different tokenizers, and compressors, can be compared.
Invariant: every token of the text but the first separator is a target exactly once.
Shape letters: B rows, T tokens, N tokens of a batch, C of a chunk, D d_model.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from mulm.data.loader import IGNORED_TARGET, TokenLoader
from mulm.errors import DataError, TrainingDivergedError
from mulm.manifest import Manifest
from mulm.model.compute import Compute
from mulm.model.microlm import MicroLM
from mulm.model.quantized import QuantizedMicroLM
from mulm.store import Store
from mulm.train.loss import sum_cross_entropy
from mulm.train.memory import LOSS_CHUNK_TOKENS

Batch = tuple[Tensor, Tensor]


def bits_per_byte(
    model: MicroLM,
    store: Store,
    dataset: Manifest,
    *,
    seq_len: int,
    stride: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_rows: int = 8,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> float:
    """Bits that the model needs per UTF-8 byte of the dataset's validation text.

    Each token is predicted from at least `seq_len - stride` tokens before it (fewer at the
    start of the text). A `stride` equal to `seq_len` is the cheapest and reads nothing twice;
    half of it costs twice as much and is closer to how the model is used. `on_progress` hears after
    each batch how many tokens of how many are read.

    Raises:
        DataError: the dataset has no validation text.
        TrainingDivergedError: the model gives no finite numbers.
    """
    stride = stride or seq_len
    loader = TokenLoader(store, dataset, "validation", seq_len=stride)
    batches = with_context(loader.iter_validation(batch_rows), seq_len - stride)
    batches = _counted(batches, loader.n_tokens, on_progress)
    return to_bits_per_byte(sum_nats(model, batches, dtype), dataset)


def to_bits_per_byte(nats: float, dataset: Manifest) -> float:
    """Nats of the whole validation text as bits per byte of it.

    Raises:
        DataError: the dataset has no validation text.
        TrainingDivergedError: `nats` is not a finite number.
    """
    n_bytes = dataset.counts.get("validation_bytes", 0)
    if not n_bytes:
        raise DataError(
            f"{dataset.id} has no validation text", hint="give its recipe a validation split"
        )
    if not math.isfinite(nats):
        raise TrainingDivergedError(
            "the loss on the held-out text is not a finite number",
            hint="train with a lower optimizer.matrix_lr and optimizer.embedding_lr",
        )
    return nats / math.log(2) / n_bytes


@torch.no_grad()
def sum_nats(model: MicroLM, batches: Iterable[Batch], dtype: torch.dtype) -> float:
    """The sum of -log p over all targets, in nats."""
    total = 0.0
    for x_BT, y_BT in batches:
        x_BT, y_BT = x_BT.to(model.device), y_BT.to(model.device)
        hidden_ND = model(x_BT, Compute(dtype)).flatten(0, 1)
        total += _nats(model, hidden_ND, y_BT.flatten(), dtype)
    return total


def _nats(model: MicroLM, hidden_ND: Tensor, targets_N: Tensor, dtype: torch.dtype) -> float:
    """Of a quantised model with the very logits that it serves."""
    if not isinstance(model, QuantizedMicroLM):
        return float(sum_cross_entropy(hidden_ND, model.output_weight_VD, targets_N, dtype))
    n_rows = LOSS_CHUNK_TOKENS[hidden_ND.device.type]
    chunks = zip(torch.split(hidden_ND, n_rows), torch.split(targets_N, n_rows), strict=True)
    return sum(
        float(
            functional.cross_entropy(
                model.logits(hidden_CD).float(), targets_C,
                ignore_index=IGNORED_TARGET, reduction="sum",
            )
        )
        for hidden_CD, targets_C in chunks
    )  # fmt: skip


def with_context(batches: Iterable[Batch], n_context: int) -> Iterator[Batch]:
    """Prepend to each row the `n_context` tokens that stand before it, as ignored targets.

    Rows must follow one another in the text. At its start there is less to prepend: those rows
    come first, each alone.
    """
    if not n_context:
        yield from batches
        return
    before_T = torch.empty(0, dtype=torch.int64)
    for x_BT, y_BT in batches:
        full_rows: list[Batch] = []
        for x_T, y_T in zip(x_BT, y_BT, strict=True):
            row = (torch.cat([before_T, x_T]), _ignore_first(y_T, len(before_T)))
            if len(before_T) < n_context:
                yield row[0][None], row[1][None]
            else:
                full_rows.append(row)
            before_T = row[0][-n_context:]
        if full_rows:
            yield torch.stack([x for x, _ in full_rows]), torch.stack([y for _, y in full_rows])


def _counted(
    batches: Iterable[Batch], n_tokens: int, on_progress: Callable[[int, int], None]
) -> Iterator[Batch]:
    """Pass batches on; a batch is done when the next one is asked for."""
    done, total = 0, max(0, n_tokens - 1)
    for x_BT, y_BT in batches:
        yield x_BT, y_BT
        done += int((y_BT != IGNORED_TARGET).sum())
        on_progress(done, total)


def xz_bits_per_byte(store: Store, dataset: Manifest) -> float:
    """Bits per byte that `xz -9e` needs for the same validation text."""
    text = store.read(dataset.blob("validation.txt"))
    if not text:
        raise DataError(f"{dataset.id} has no validation text")
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def _ignore_first(y_T: Tensor, n_context: int) -> Tensor:
    return torch.nn.functional.pad(y_T, (n_context, 0), value=IGNORED_TARGET)
