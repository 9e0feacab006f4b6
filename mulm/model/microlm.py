"""MicroLM: the decoder-only µLM in plain PyTorch.

Called by training (`forward`, then a chunked loss on the hidden states), by the engine
(`extend`, over pages of keys and values) and by evaluation. Invariant: both ways give the same
numbers for the same tokens, up to rounding. Shape letters: B batch, T time, D d_model, H d_head,
V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mulm.model.adapter import Adapter, RowAdapters
from mulm.model.attention import RowAttention, choose_kernel, document_positions
from mulm.model.batch import Batch, Rows
from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.kv_cache import KvDtype, PagedAttention, PagedCache, page_bytes
from mulm.model.kv_rows import RowsAttention
from mulm.model.layers import Attend, Block, RMSNorm, rotary_tables

EMBEDDING_STD = 0.02


class MicroLM(nn.Module):
    """Embeddings, blocks, a last norm, and the embeddings again as output weights."""

    is_batch_invariant = False
    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(self, config: MicroLMConfig) -> None:
        super().__init__()
        self.config = config
        self.kv_dtype: KvDtype = None
        """Of the caches that are made from now on."""
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        if not config.tie_embeddings:
            self.unembedding = nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos_PH, sin_PH = rotary_tables(config)
        self.register_buffer("rotary_cos", cos_PH, persistent=False)
        self.register_buffer("rotary_sin", sin_PH, persistent=False)
        self._adapters = RowAdapters(self.blocks)

    def restore_tables(self) -> None:
        """Compute the rotary tables again after `to_empty`: they are in no checkpoint."""
        with torch.device("cpu"):
            cos_PH, sin_PH = rotary_tables(self.config)
        self.rotary_cos.copy_(cos_PH)
        self.rotary_sin.copy_(sin_PH)

    @property
    def output_weight_VD(self) -> Tensor:
        """The matrix that turns hidden states into logits."""
        return self.embedding.weight if self.config.tie_embeddings else self.unembedding.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> MicroLM:
        """Fresh weights: the last matrix of each branch is zero, so blocks begin as identity."""
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                parameter.zero_()
            elif name.endswith(("embedding.weight", "unembedding.weight")):
                parameter.normal_(0.0, EMBEDDING_STD, generator=generator)
            elif parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0)
        return self

    def forward(
        self,
        ids_BT: Tensor,
        compute: Compute = Compute(),  # noqa: B008 - frozen
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) after the last norm, each row read causally from position 0.

        With `documents_BT`, non-decreasing along a row, a token sees only its own document, and
        positions begin again with each; the result is that of the documents alone.
        """
        kernel, _ = choose_kernel(
            compute.attention, ids_BT.device.type, ids_BT.shape[1], self.config.d_head
        )
        if documents_BT is None:
            positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        else:
            positions_BT = document_positions(documents_BT)
        return self._run(ids_BT, positions_BT, RowAttention(kernel, documents_BT), compute)

    def logits(self, hidden_XD: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        return functional.linear(hidden_XD, self.output_weight_VD)

    def make_cache(self, n_pages: int) -> PagedCache:
        """As `LanguageModel.make_cache`, in the type of the norms or as `kv_dtype` says."""
        dtype = self.norm.weight.dtype
        return PagedCache(self.config, n_pages, dtype, self.device, self.kv_dtype)

    def page_bytes(self) -> int:
        """As `LanguageModel.page_bytes`."""
        return page_bytes(self.config, self.norm.weight.dtype, self.kv_dtype)

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """As `LanguageModel.set_adapter`."""
        adapter.check(self.config)
        self._adapters.set(number, adapter)

    def remove_adapter(self, number: int) -> None:
        """As `LanguageModel.remove_adapter`."""
        self._adapters.set(number, None)

    @torch.inference_mode()
    def extend(self, batch: Batch, cache: PagedCache) -> Tensor:
        """As `LanguageModel.extend`."""
        ids_BT = batch.ids_T.to(self.device)[None]
        positions_BT = batch.positions_T.to(self.device)[None]
        with self._adapters.beside(batch):
            hidden_BTD = self._run(ids_BT, positions_BT, PagedAttention(cache, batch))
        return hidden_BTD[0, batch.wanted_R.to(self.device)]

    @torch.inference_mode()
    def read_rows(self, rows: Rows, cache: PagedCache) -> Tensor:
        """As `RowModel.read_rows`."""
        attend = RowsAttention(cache, rows)
        with self._adapters.beside_rows(rows):
            return self._run(rows.ids_B[None], rows.positions_B[None], attend)[0]

    def _run(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        attend: Attend,
        compute: Compute = Compute(),  # noqa: B008 - frozen
    ) -> Tensor:
        x_BTD = self.embedding(ids_BT)
        x_BTD = x_BTD.to(compute.dtype or x_BTD.dtype)
        cos_BTH = self.rotary_cos[positions_BT].to(x_BTD.dtype)
        sin_BTH = self.rotary_sin[positions_BT].to(x_BTD.dtype)
        has_gradients = torch.is_grad_enabled()
        is_compiled = compute.is_compiled and has_gradients
        for block in self.blocks:
            if compute.is_checkpointed and has_gradients:
                x_BTD = checkpoint(
                    block, x_BTD, cos_BTH, sin_BTH, attend, is_compiled,
                    use_reentrant=False, preserve_rng_state=False, determinism_check="none",
                )  # fmt: skip
            else:
                x_BTD = block(x_BTD, cos_BTH, sin_BTH, attend, is_compiled)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD
