"""What objectives on a MicroLM share: its origin, its beginning, how it is run and stored.

Base of pretraining, distillation and preference. Invariants: see `base`; what is stored is an
ordinary model, also where adapters alone were trained, which it then has beside it. Shape
letters: B rows, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mulm.data.tokenizer import Tokenizer
from mulm.manifest import Manifest
from mulm.model.attention import choose_kernel, document_ids
from mulm.model.compute import Compute
from mulm.model.fp8 import in_fp8
from mulm.model.lora import adapt, adapter_of, merged
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model, store_model
from mulm.train.compiling import choose_compiled
from mulm.train.context import TrainContext
from mulm.train.device import choose_precision, memory_bytes
from mulm.train.host_memory import require_host_memory
from mulm.train.micro_batch import FILLING_TOKENS, choose_micro_batch, halved
from mulm.train.settled import SettledConfig
from mulm.train.settling import run_shape


class OnMicroLM:
    """The part of `Objective` that does not depend on what is learned."""

    def __init__(self, config: SettledConfig, context: TrainContext) -> None:
        self.config, self.context = config, context
        device = context.device
        self._beginning = context.models.get("init_from")
        self._shape = run_shape(config, context.store, context.dataset, context.models)
        self._separator_id = separator_id(context) if config.documents == "apart" else None
        self._kernel = choose_kernel(
            config.attention, device.type, config.seq_len, self._shape.d_head
        )
        self._compiled = choose_compiled(config, self._shape, device.type)
        precision, _ = choose_precision(config.precision, device.type)
        if device.type == "cpu":
            require_host_memory(
                config, self._shape, precision, frozen_bytes(config, context.models)
            )
        self._micro_batch = choose_micro_batch(
            config, self._shape, device.type, precision, room_bytes(config, context)
        )
        # Held-out data is shared out by this, the same on every worker: rows at once are not,
        # where one ran out of memory or has a smaller card.
        self._shared_rows = max(1, FILLING_TOKENS[device.type] // config.row_tokens)

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
        """Rows at once, how attention is computed, and whether steps are compiled."""
        kernel, why_kernel = self._kernel
        rows = f"{self._micro_batch.rows} rows at once ({self._micro_batch.reason})"
        compiled = "compiled" if self._is_compiled else "not compiled"
        return f"{rows}, attention by {kernel} ({why_kernel}), {compiled} ({self._compiled[1]})"

    def build(self, generator: torch.Generator) -> MicroLM:
        """Fresh weights in the config's shape, or those of the model that it begins with."""
        model = self._fresh(generator)
        if self.config.precision == "fp8":
            in_fp8(model)
        return model

    def _fresh(self, generator: torch.Generator) -> MicroLM:
        if not self._beginning:
            return MicroLM(self._shape).init_weights(generator)
        model, lora = load_model(self.context.store, self._beginning).train(), self.config.lora
        if lora is None:
            return model.requires_grad_(True)
        return adapt(
            model, rank=lora.rank, scale=lora.scale, matrices=lora.matrices, generator=generator
        )

    @property
    def _is_compiled(self) -> bool:
        return self._compiled[0]

    def shrink(self) -> int | None:
        """The next smaller power of two."""
        smaller = halved(self._micro_batch)
        self._micro_batch = smaller or self._micro_batch
        return smaller.rows if smaller else None

    def store(self, model: MicroLM, counts: Mapping[str, int]) -> str:
        """With all that it was made from; adapters are merged, and kept by themselves too."""
        store, dataset = self.context.store, self.context.dataset
        is_adapted = self.config.lora is not None
        manifest = store_model(
            store,
            merged(model) if is_adapted else model,
            store.read(dataset.blob("tokenizer.json")),
            dataset.tokenizer_fingerprint or "",
            config=self.config.model_dump(mode="json"),
            parents={
                "dataset": dataset.id,
                **{role: made_from.id for role, made_from in self.context.models.items()},
            },
            licences=tuple(sorted({*dataset.licences, *self._licences_of_models()})),
            counts=counts,
            adapter=adapter_of(model) if is_adapted else None,
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
        compute = Compute(
            dtype, config.attention, config.activation_checkpointing, self._is_compiled
        )
        hidden_BTD: Tensor = model(x_BT, compute, documents_BT)
        return hidden_BTD


def room_bytes(config: SettledConfig, context: TrainContext) -> int | None:
    """The device's memory without what frozen models beside the trained one take, in fp32."""
    room = memory_bytes(context.device)
    if room is None:
        return None
    return max(0, room - frozen_bytes(config, context.models))


def frozen_bytes(config: SettledConfig, models: Mapping[str, Manifest]) -> int:
    """What the models take that are only read."""
    frozen = [models[role] for role in config.frozen_models if role in models]
    return 4 * sum(int(model.counts["parameters"]) for model in frozen)


def separator_id(context: TrainContext) -> int:
    """The token that begins a document."""
    content = context.store.read(context.dataset.blob("tokenizer.json"))
    return Tokenizer.from_bytes(content).end_of_text_id
