"""Pretraining: a µLM predicts each next token of a dataset version.

The training loop's default objective. Invariant: see `base`; validation covers each held-out token
once, for any number of workers. Shape letters: B rows, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mulm.data.loader import IGNORED_TARGET, TokenLoader
from mulm.data.tokenizer import Tokenizer
from mulm.eval.compression import sum_nats, to_bits_per_byte
from mulm.model.attention import choose_kernel, document_ids
from mulm.model.compute import Compute
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model, model_config, store_model
from mulm.train.config import TrainConfig
from mulm.train.context import TrainContext
from mulm.train.device import choose_precision, memory_bytes
from mulm.train.loss import sum_cross_entropy
from mulm.train.micro_batch import choose_micro_batch
from mulm.train.objectives.base import SummedLoss
from mulm.train.sync.base import Sync

Batch = tuple[Tensor, Tensor]
"""x_BT and y_BT; y is x one token later."""


class Pretraining:
    """`Objective` of a MicroLM on the token shards of `context.dataset`.

    Raises:
        CorruptError: a shard does not match its checksum.
        DataError: too few tokens for one window.
    """

    judged_by = "bits_per_byte"

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        self.config, self.context = config, context
        store, dataset, seq_len = context.store, context.dataset, config.seq_len
        self._training = TokenLoader(store, dataset, seq_len=seq_len, seed=config.seed)
        self._held_out = TokenLoader(store, dataset, "validation", seq_len=seq_len)
        self._beginning = context.models.get("init_from")
        self._shape = (
            model_config(store, self._beginning)
            if self._beginning
            else config.shape(int(dataset.counts["vocab_size"]))
        )
        self._separator_id = separator_id(context) if config.documents == "apart" else None
        device = context.device
        self._kernel = choose_kernel(
            config.attention,
            device.type,
            seq_len,
            self._shape.d_head,
            self._separator_id is not None,
        )
        precision, _ = choose_precision(config.precision, device.type)
        self._micro_batch = choose_micro_batch(
            config, self._shape, device.type, precision, _room_bytes(context)
        )

    @property
    def origin(self) -> Mapping[str, Any]:
        """The dataset version and its tokenizer, and the models that it begins with."""
        dataset = self.context.dataset
        return {
            "tokenizer_fingerprint": dataset.tokenizer_fingerprint,
            "dataset": dataset.id,
            **{role: model.id for role, model in self.context.models.items()},
        }

    @property
    def manner(self) -> str:
        """Rows at once, and how attention is computed."""
        kernel, reason = self._kernel
        rows = f"{self._micro_batch.rows} rows at once ({self._micro_batch.reason})"
        return f"{rows}, attention by {kernel} ({reason})"

    def build(self, generator: torch.Generator) -> MicroLM:
        """Fresh weights in the config's shape, or those of the model that it begins with."""
        if self._beginning:
            return load_model(self.context.store, self._beginning).requires_grad_(True).train()
        return MicroLM(self._shape).init_weights(generator)

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Batch]:
        """Windows of the dataset in the order that its seed gives."""
        x_BT, y_BT = self._training.batch(step, self.config.n_rows, start, stop)
        x_BT, y_BT = x_BT.to(self.context.device), y_BT.to(self.context.device)
        rows = self._micro_batch.rows
        return zip(torch.split(x_BT, rows), torch.split(y_BT, rows), strict=True)

    def loss(self, model: MicroLM, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """Cross-entropy in nats."""
        x_BT, y_BT = batch
        hidden_BTD = self._read(model, x_BT, dtype)
        weight_VD = model.output_weight_VD
        nats = sum_cross_entropy(hidden_BTD.flatten(0, 1), weight_VD, y_BT.flatten(), dtype)
        return SummedLoss(nats, int((y_BT != IGNORED_TARGET).sum()))

    def validate(self, model: MicroLM, dtype: torch.dtype, sync: Sync) -> dict[str, float]:
        """Each worker takes every n-th batch; the sum is the same up to rounding for any n."""
        rank, world_size = self.context.rank, self.context.world_size
        batches = self._held_out.iter_validation(self._micro_batch.rows, rank, world_size)
        (nats,) = sync.sum_values([sum_nats(model, batches, dtype)])
        return {self.judged_by: to_bits_per_byte(nats, self.context.dataset)}

    def store(self, model: MicroLM, counts: Mapping[str, int]) -> str:
        """With all that it was made from."""
        store, dataset = self.context.store, self.context.dataset
        manifest = store_model(
            store,
            model,
            store.read(dataset.blob("tokenizer.json")),
            dataset.tokenizer_fingerprint or "",
            config=self.config.model_dump(mode="json"),
            parents={
                "dataset": dataset.id,
                **{role: made_from.id for role, made_from in self.context.models.items()},
            },
            licences=tuple(sorted({*dataset.licences, *self._licences_of_models()})),
            counts=counts,
        )
        return manifest.id

    def _licences_of_models(self) -> set[str]:
        """A model that was made from others carries what they carry."""
        return {name for model in self.context.models.values() for name in model.licences}

    def _read(self, model: MicroLM, x_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """Hidden states (B, T, D), computed as the config says."""
        documents_BT = None
        if self._separator_id is not None:
            documents_BT = document_ids(x_BT, self._separator_id)
        config = self.config
        compute = Compute(dtype, config.attention, config.activation_checkpointing)
        hidden_BTD: Tensor = model(x_BT, compute, documents_BT)
        return hidden_BTD


def _room_bytes(context: TrainContext) -> int | None:
    """The device's memory without what a teacher takes of it, in fp32."""
    room = memory_bytes(context.device)
    teacher = context.models.get("teacher")
    if room is None or teacher is None:
        return room
    return max(0, room - 4 * int(teacher.counts["parameters"]))


def separator_id(context: TrainContext) -> int:
    """The token that begins a document."""
    content = context.store.read(context.dataset.blob("tokenizer.json"))
    return Tokenizer.from_bytes(content).end_of_text_id
