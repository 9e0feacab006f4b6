"""Pretraining: a µLM predicts each next token of a dataset version.

The training loop's default objective, and that of fine-tuning: what a dataset's loss masks leave
out counts nothing. Invariant: see `base`; validation covers each held-out target once, for any
number of workers, and reads documents as training does. Shape letters: B rows, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mulm.data.loader import IGNORED_TARGET, TokenLoader
from mulm.eval.compression import to_bits_per_byte
from mulm.model.microlm import MicroLM
from mulm.train.context import TrainContext
from mulm.train.loss import sum_cross_entropy
from mulm.train.objectives.base import SummedLoss
from mulm.train.objectives.microlm import OnMicroLM
from mulm.train.settled import SettledConfig
from mulm.train.sync.base import Sync

Batch = tuple[Tensor, Tensor]
"""x_BT and y_BT; y is x one token later, or `IGNORED_TARGET`."""


class Pretraining(OnMicroLM):
    """`Objective` of a MicroLM on the token shards of `context.dataset`.

    Raises:
        CorruptError: a shard does not match its checksum.
        DataError: too few tokens for one window.
    """

    judged_by = "bits_per_byte"
    higher_is_better = False

    def __init__(self, config: SettledConfig, context: TrainContext) -> None:
        super().__init__(config, context)
        store, dataset, seq_len = context.store, context.dataset, config.seq_len
        self._training = TokenLoader(store, dataset, seq_len=seq_len, seed=config.seed)
        self._held_out = TokenLoader(store, dataset, "validation", seq_len=seq_len)

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Batch]:
        """Windows of the dataset in the order that its seed gives."""
        x_BT, y_BT = self._training.batch(step, self.config.n_rows, start, stop)
        x_BT, y_BT = x_BT.to(self.context.device), y_BT.to(self.context.device)
        rows = self._micro_batch.rows
        return zip(torch.split(x_BT, rows), torch.split(y_BT, rows), strict=True)

    def loss(self, model: MicroLM, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """Cross-entropy in nats of what is to be learned, with the z-loss of the config."""
        _, y_BT = batch
        nats = self._nats(model, batch, dtype, self.config.z_loss)
        return SummedLoss(nats, int((y_BT != IGNORED_TARGET).sum()))

    @torch.no_grad()
    def validate(self, model: MicroLM, dtype: torch.dtype, sync: Sync) -> dict[str, float]:
        """Each worker takes every n-th batch; the sum is the same up to rounding for any n."""
        rank, world_size, device = (
            self.context.rank,
            self.context.world_size,
            self.context.device,
        )
        nats = 0.0
        for shared in self._held_out.iter_validation(self._shared_rows, rank, world_size):
            for x_BT, y_BT in _split(shared, self._micro_batch.rows):
                nats += float(self._nats(model, (x_BT.to(device), y_BT.to(device)), dtype))
        (nats,) = sync.sum_values([nats])
        return {self.judged_by: to_bits_per_byte(nats, self.context.dataset)}

    def _nats(
        self, model: MicroLM, batch: Batch, dtype: torch.dtype, z_weight: float = 0.0
    ) -> Tensor:
        x_BT, y_BT = batch
        hidden_ND, weight_VD = self._read(model, x_BT, dtype).flatten(0, 1), model.output_weight_VD
        return sum_cross_entropy(
            hidden_ND,
            weight_VD,
            y_BT.flatten(),
            dtype,
            z_weight=z_weight,
            is_compiled=self._is_compiled,
        )


def _split(batch: Batch, n_rows: int) -> Iterator[Batch]:
    """Parts of at most so many rows."""
    return zip(*(torch.split(tensor, n_rows) for tensor in batch), strict=True)
