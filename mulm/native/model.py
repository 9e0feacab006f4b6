"""A µLM whose steps are run by the kernels: weights packed once, for one CPU.

Made for the engine from a `MicroLM` or a `QuantizedMicroLM`. Invariants: computes what the model
does, up to rounding; a row's numbers depend on no other row, so an answer is the same in any batch;
other weights are another one, for which nothing is compiled.
Shape letters as in `mulm.model.batch`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mulm.model.adapter import MATRICES, Adapter
from mulm.model.batch import Batch
from mulm.model.config import MicroLMConfig
from mulm.model.kv_cache import KvDtype
from mulm.model.layers import RMSNorm
from mulm.model.lora import AdaptedLinear
from mulm.model.microlm import MicroLM
from mulm.model.quantized import QuantizedMatrix, QuantizedMicroLM
from mulm.native.adapter import pack_adapter
from mulm.native.build import NoKernelsError
from mulm.native.library import FAULTS, FORMATS, WIDEST_HEAD, address, load_library

_EMBEDDING, _UNEMBEDDING = 7, 8
_NORMS = ("attention_norm", "mlp_norm", "attention.q_norm", "attention.k_norm")
_LAST_NORM = 4
_NO_MEMORY = len(FAULTS) - 1
_WIDEST_INT8 = 1 << 16
"""Inputs of a matrix whose sums of products of bytes fit 32 bits."""


class NativeCache:
    """Keys and values in pages; memory is taken only where it is written."""

    def __init__(self, model: NativeModel, n_pages: int) -> None:
        self._library, self.shape = model.library, model.shape
        self.handle = self._library.mulm_cache_new(model.handle, n_pages)
        if not self.handle:
            raise MemoryError(f"no memory for {n_pages} pages of keys and values")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._library.mulm_cache_delete(self.handle)


class NativeModel:
    """A `LanguageModel` on the CPU, used by one thread at a time: steps share its room and threads.

    Args:
        model: Gives the shape and the weights; it is left as it is and not kept.
        folder: Where compiled code is kept.
        n_threads: Threads of a step; those of torch by default.
        kv_dtype: "int8" keeps keys and values in bytes, with a scale for each token and head;
            "bf16" keeps them so beside fp32 weights too, beside which they are fp32 by default.
        extra_flags: For the compiler.

    Raises:
        NoKernelsError: the kernels cannot be compiled here, or do not compute such a model.
    """

    is_batch_invariant = True

    def __init__(
        self,
        model: MicroLM,
        folder: Path,
        n_threads: int | None = None,
        kv_dtype: KvDtype = None,
        extra_flags: tuple[str, ...] = (),
    ) -> None:
        self.n_threads = n_threads or torch.get_num_threads()
        self.kv_dtype = kv_dtype
        self.shape = _shape(model, kv_dtype, self.n_threads)
        self._row_dtype = _row_dtype(model)
        self.config: MicroLMConfig = model.config
        self.library = load_library(folder, extra_flags)
        shape = torch.tensor(self.shape, dtype=torch.int64)
        cos_PH, sin_PH = (
            model.rotary_cos.float().contiguous(),
            model.rotary_sin.float().contiguous(),
        )
        self.handle = self.library.mulm_model_new(
            address(shape, torch.int64),
            self.config.norm_eps,
            address(cos_PH, torch.float32),
            address(sin_PH, torch.float32),
        )
        if not self.handle:
            raise MemoryError(
                f"no memory for the packed weights, or no {self.n_threads} threads to be had"
            )
        lanes = self.library.mulm_lanes()
        self._padded_vocab_size = -(-self.config.vocab_size // lanes) * lanes
        self._pack(model)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.mulm_model_delete(self.handle)

    @torch.no_grad()
    def _pack(self, model: MicroLM) -> None:
        for number, block in enumerate(model.blocks):
            for name, part in enumerate(MATRICES):
                self._set_matrix(number, name, block.get_submodule(part))
            for name, part in enumerate(_NORMS):
                norm = block.get_submodule(part)
                if isinstance(norm, RMSNorm):
                    self._set_norm(number, name, norm.weight)
        self._set_matrix(0, _EMBEDDING, model.embedding)
        if not self.config.tie_embeddings:
            self._set_matrix(0, _UNEMBEDDING, model.unembedding)
        self._set_norm(0, _LAST_NORM, model.norm.weight)

    def set_threads(self, n_threads: int) -> None:
        """Compute with so many from the next step on; the numbers stay the same.

        Raises:
            MemoryError: there are not so many to be had; one computes then.
        """
        assert n_threads >= 1, "somebody has to compute"
        if not self.library.mulm_set_threads(self.handle, n_threads):
            self.n_threads = 1
            raise MemoryError(f"no {n_threads} threads to be had")
        self.n_threads = n_threads

    def make_cache(self, n_pages: int) -> NativeCache:
        """As `LanguageModel.make_cache`."""
        return NativeCache(self, n_pages)

    def page_bytes(self) -> int:
        """As `LanguageModel.page_bytes`."""
        n_bytes: int = self.library.mulm_page_bytes(self.handle)
        return n_bytes

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """As `LanguageModel.set_adapter`."""
        adapter.check(self.config)
        packed = pack_adapter(self.library, self.handle, adapter, self._row_dtype)
        if not self.library.mulm_set_adapter(self.handle, number, packed):
            raise MemoryError("no memory for an adapter")

    def remove_adapter(self, number: int) -> None:
        """As `LanguageModel.remove_adapter`."""
        self.library.mulm_set_adapter(self.handle, number, None)

    def extend(self, batch: Batch, cache: NativeCache) -> Tensor:
        """As `LanguageModel.extend`; hidden_RD in fp32.

        Raises:
            IndexError: an id, position, page, row or adapter does not exist, or lengths do not fit
                one another; nothing was computed.
            MemoryError: there is no memory for that many tokens.
        """
        _check_lengths(batch)
        n_wanted = len(batch.wanted_R)
        hidden_RD = torch.empty(n_wanted, self.config.d_model)
        assert cache.shape == self.shape, "the cache of another model"
        fault = self.library.mulm_extend(
            self.handle, cache.handle,
            address(batch.ids_T, torch.int32), address(batch.positions_T, torch.int32),
            address(batch.begins_S1, torch.int32), address(batch.pages_SP, torch.int32),
            address(batch.wanted_R, torch.int32),
            None if batch.adapters_S is None else address(batch.adapters_S, torch.int32),
            len(batch.ids_T), len(batch.begins_S1) - 1, n_wanted, batch.pages_SP.shape[1],
            hidden_RD.data_ptr(),
        )  # fmt: skip
        if fault:
            raise (MemoryError if fault == _NO_MEMORY else IndexError)(FAULTS[fault])
        return hidden_RD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """As `LanguageModel.logits`. Raises MemoryError."""
        n_rows = len(hidden_RD)
        logits_RV = torch.empty(n_rows, self._padded_vocab_size)
        if not self.library.mulm_logits(
            self.handle, address(hidden_RD, torch.float32), n_rows, logits_RV.data_ptr()
        ):
            raise MemoryError(f"no memory for the logits of {n_rows} rows")
        return logits_RV[:, : self.config.vocab_size]

    def _set_matrix(self, layer: int, name: int, module: nn.Module) -> None:
        weight, scale_O, multipliers_OP = _weights(module)
        is_set = self.library.mulm_set_matrix(
            self.handle, layer, name, address(weight, weight.dtype), FORMATS[weight.dtype],
            None if scale_O is None else address(scale_O, torch.float32),
            None if multipliers_OP is None else address(multipliers_OP, torch.uint8),
        )  # fmt: skip
        if not is_set:
            raise MemoryError("no memory to pack the weights")

    def _set_norm(self, layer: int, name: int, gain: Tensor) -> None:
        gain = gain.detach().float().contiguous()
        self.library.mulm_set_norm(self.handle, layer, name, address(gain, torch.float32))


def _check_lengths(batch: Batch) -> None:
    """Refuse tensors that are shorter or longer than others say; the kernels look at numbers."""
    n_tokens, n_sequences = len(batch.ids_T), len(batch.begins_S1) - 1
    if batch.positions_T.shape != (n_tokens,):
        raise IndexError(f"positions_T is {tuple(batch.positions_T.shape)}, of {n_tokens} tokens")
    if batch.pages_SP.ndim != 2 or len(batch.pages_SP) != n_sequences:
        raise IndexError(f"pages_SP is {tuple(batch.pages_SP.shape)}, of {n_sequences} sequences")
    if batch.adapters_S is not None and batch.adapters_S.shape != (n_sequences,):
        raise IndexError(
            f"adapters_S is {tuple(batch.adapters_S.shape)}, of {n_sequences} sequences"
        )


def _check(model: MicroLM) -> None:
    """Refuse what the kernels have no room or no code for. Raises NoKernelsError."""
    config, dtype = model.config, model.norm.weight.dtype
    widest = max(config.d_model, config.d_ff, config.n_heads * config.d_head)
    if model.device.type != "cpu":
        raise NoKernelsError(f"the model is on {model.device}, the kernels are for CPUs")
    if dtype not in (torch.float32, torch.bfloat16):
        raise NoKernelsError(f"the kernels do not compute in {dtype}")
    if config.d_head > WIDEST_HEAD:
        raise NoKernelsError(f"d_head is {config.d_head}, the kernels have room for {WIDEST_HEAD}")
    if isinstance(model, QuantizedMicroLM) and widest > _WIDEST_INT8:
        raise NoKernelsError(f"sums of {widest} products of bytes do not fit 32 bits")
    if any(isinstance(module, AdaptedLinear) for module in model.modules()):
        raise NoKernelsError("the model's adapters are not merged into its weights")


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A matrix as it is stored: weights, or codes with scales and, in 4 bits, multipliers."""
    if not isinstance(module, QuantizedMatrix):
        assert isinstance(module, nn.Linear | nn.Embedding)
        return module.weight.detach().contiguous(), None, None
    assert len(module.codes), "the stored form was given up for a faster one"
    multipliers_OP = module.multipliers if module.bits == "int4" else None
    return module.codes, module.scale, multipliers_OP


def _row_dtype(model: MicroLM) -> torch.dtype:
    """The type of what the matrices are multiplied by."""
    return torch.int8 if isinstance(model, QuantizedMicroLM) else model.norm.weight.dtype


def _matrix_dtypes(model: MicroLM) -> tuple[torch.dtype, torch.dtype]:
    """Of the matrices of blocks, and of the embeddings."""
    if not isinstance(model, QuantizedMicroLM):
        return model.norm.weight.dtype, model.norm.weight.dtype
    stored, dtypes = model.quantization, {"int8": torch.int8, "int4": torch.uint8}
    return dtypes[stored.linear], dtypes[stored.embedding]


def _kv_dtype(model: MicroLM, asked: KvDtype) -> torch.dtype:
    if asked is not None:
        return torch.int8 if asked == "int8" else torch.bfloat16
    return torch.float32 if _row_dtype(model) == torch.float32 else torch.bfloat16


def _shape(model: MicroLM, kv_dtype: KvDtype, n_threads: int) -> list[int]:
    """As model.h has it."""
    _check(model)
    config = model.config
    inner, head = (FORMATS[dtype] for dtype in _matrix_dtypes(model))
    kv_format = FORMATS[_kv_dtype(model, kv_dtype)]
    return [
        config.vocab_size, config.d_model, config.n_layers, config.n_heads, config.n_kv_heads,
        config.d_head, config.d_ff, config.max_seq_len, int(config.qk_norm),
        int(config.tie_embeddings), inner, head, kv_format, n_threads,
    ]  # fmt: skip
