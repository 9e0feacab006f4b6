"""The µLM with quantised matrices: for inference only.

Made by compression from a trained model, and by `mulm.model.stored` from a file. Invariant: it
takes the place of a `MicroLM` in the engine and in evaluation; norms stay as they are. Matrices
keep their stored form, expanded at each use, until `pack`: where bytes multiply fast (see
`int8_product`) they are then copied one byte a weight. A packed model is used where it is: to store
or move it is a bug.
Shape letters: X any leading dimensions, D d_model, V vocabulary, O outputs, I inputs, P bytes
with two 4-bit numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulm.config import Frozen
from mulm.model.config import MicroLMConfig
from mulm.model.int4_layout import GROUP, padded
from mulm.model.int8_product import Int8Product, can_multiply, ignore_warning
from mulm.model.microlm import MicroLM
from mulm.model.quantize import (
    Bits,
    Int4Matrix,
    Int8Matrix,
    dequantize,
    expand_int4,
    quantize_int4,
    quantize_int8,
)


class Quantization(Frozen):
    """How a stored model's matrices are quantised: its `quantization.json`."""

    linear: Bits
    """Of the matrices inside blocks, and of output weights that are not the embeddings."""
    embedding: Bits
    group: Literal[16] = GROUP
    """Weights that share a 4-bit multiplier."""


class QuantizedMatrix(nn.Module):
    """One matrix (O, I) in its stored form."""

    codes: Tensor
    multipliers: Tensor
    scale: Tensor

    def __init__(self, n_outputs: int, n_inputs: int, bits: Bits, keeps_rows: bool) -> None:
        super().__init__()
        self.n_inputs = n_inputs
        self.bits = bits
        self._keeps_rows = keeps_rows
        self._product: Int8Product | None = None
        if bits == "int8":
            self.register_buffer("codes", torch.zeros(n_outputs, n_inputs, dtype=torch.int8))
        else:
            n_codes, n_groups = padded(n_inputs), padded(n_inputs) // GROUP
            shape_codes, shape_groups = (n_outputs, n_codes // 2), (n_outputs, n_groups // 2)
            self.register_buffer("codes", torch.zeros(shape_codes, dtype=torch.uint8))
            self.register_buffer("multipliers", torch.zeros(shape_groups, dtype=torch.uint8))
        self.register_buffer("scale", torch.zeros(n_outputs, dtype=torch.float32))

    @property
    def weight(self) -> Tensor:
        """The weights (O, I), fp32, computed anew at each use."""
        return dequantize(self._matrix(slice(None)))

    @torch.no_grad()
    def fill(self, weight_OI: Tensor) -> None:
        """Quantise weights into this matrix.

        Raises:
            DataError: a weight is not finite.
        """
        quantized: Int8Matrix | Int4Matrix
        if self.bits == "int8":
            quantized = quantize_int8(weight_OI)
        else:
            quantized = quantize_int4(weight_OI)
            self.multipliers.copy_(quantized.multipliers_OP)
        self.codes.copy_(quantized[0])
        self.scale.copy_(quantized.scale_O)

    def rows(self, ids_X: Tensor) -> Tensor:
        """The rows of those numbers, (X, I), fp32."""
        return dequantize(self._matrix(ids_X.flatten())).view(*ids_X.shape, self.n_inputs)

    def product(self, x_XI: Tensor) -> Tensor:
        """`x @ weight.T`, (X, O)."""
        if self._product is not None:
            return self._product(x_XI)
        return functional.linear(x_XI, self.weight.to(x_XI.dtype))

    def pack(self) -> None:
        """Multiply bytes from now on; give up the stored form unless single rows are read from it.

        Only where `can_multiply`; doing it twice is harmless.
        """
        if self._product is not None:
            return
        self._product = Int8Product(self._matrix(slice(None)))
        if not self._keeps_rows:
            for name in {"codes", "multipliers"} & self._buffers.keys():
                setattr(self, name, getattr(self, name).new_empty(0))

    def _save_to_state_dict(self, *args: Any, **options: Any) -> None:
        self._require_stored_form()
        super()._save_to_state_dict(*args, **options)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._require_stored_form()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _require_stored_form(self) -> None:
        assert self._product is None, "a packed model is neither stored nor moved: load it again"

    def int8_form(self) -> Int8Matrix:
        """All of it as int8 codes (O, I) and scales (O)."""
        return self._matrix(slice(None))

    def _matrix(self, rows: Tensor | slice) -> Int8Matrix:
        assert len(self.codes), "the stored form was given up for a faster one"
        if self.bits == "int8":
            return Int8Matrix(self.codes[rows], self.scale[rows])
        packed = Int4Matrix(self.codes[rows], self.multipliers[rows], self.scale[rows])
        return expand_int4(packed, self.n_inputs)


class QuantizedLinear(QuantizedMatrix):
    """In the place of `nn.Linear` without a bias."""

    def __init__(self, n_outputs: int, n_inputs: int, bits: Bits) -> None:
        super().__init__(n_outputs, n_inputs, bits, keeps_rows=False)

    def forward(self, x_XI: Tensor) -> Tensor:
        """See `product`."""
        return self.product(x_XI)


class QuantizedEmbedding(QuantizedMatrix):
    """In the place of `nn.Embedding`; gives rows in `dtype`."""

    def __init__(self, n_rows: int, width: int, bits: Bits, dtype: torch.dtype) -> None:
        super().__init__(n_rows, width, bits, keeps_rows=True)
        self.dtype = dtype

    def forward(self, ids_X: Tensor) -> Tensor:
        """(X, D)."""
        return self.rows(ids_X).to(self.dtype)


class QuantizedMicroLM(MicroLM):
    """A `MicroLM` whose matrices are quantised; activations are of `dtype`."""

    def __init__(
        self,
        config: MicroLMConfig,
        quantization: Quantization,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        with torch.device("meta"):
            super().__init__(config)
            self.quantization = quantization
            linears = [(n, m) for n, m in self.named_modules() if isinstance(m, nn.Linear)]
            for name, linear in linears:
                owner, _, attribute = name.rpartition(".")
                shape = linear.out_features, linear.in_features
                quantized = QuantizedLinear(*shape, quantization.linear)
                setattr(self.get_submodule(owner), attribute, quantized)
            table = QuantizedEmbedding(
                config.vocab_size, config.d_model, quantization.embedding, dtype
            )
            self.embedding = table  # type: ignore[assignment]
            for parameter in self.parameters():
                parameter.data = parameter.data.to(dtype)
        self.to_empty(device=device)
        self.restore_tables()
        self.eval().requires_grad_(False)

    @classmethod
    def of(cls, model: MicroLM, quantization: Quantization) -> QuantizedMicroLM:
        """Quantise a model on the CPU, matrix by matrix; it is left as it is.

        Raises:
            DataError: a weight is not finite.
        """
        quantized = cls(model.config, quantization)
        weights = model.state_dict()
        for name, module in quantized.named_modules():
            if isinstance(module, QuantizedMatrix):
                module.fill(weights[f"{name}.weight"])
        for name, parameter in quantized.named_parameters():
            parameter.copy_(weights[name])
        return quantized

    def pack(self) -> None:
        """Make ready for much computing: each matrix in the form that this machine is fastest with.

        Elsewhere than on a CPU that multiplies bytes the model stays as it is. One matrix at a time
        is there twice; an int4 matrix then takes a byte a weight.
        """
        if not can_multiply(self.device):
            return
        ignore_warning()
        for module in self.modules():
            if isinstance(module, QuantizedLinear):
                module.pack()
        if self.config.tie_embeddings:
            assert isinstance(self.embedding, QuantizedEmbedding)
            self.embedding.pack()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    def logits(self, hidden_XD: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D)."""
        head = self.embedding if self.config.tie_embeddings else self.unembedding
        assert isinstance(head, QuantizedMatrix)
        return head.product(hidden_XD)
