"""Our engine over exported weights, as it serves: with the kernels where they are wanted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.serve_shapes import load_exported
from mulm.engine.engine import Engine
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.native.model import NativeModel

KERNELS = Path(os.environ.get("MULM_BENCH_KERNELS", "/tmp/mulm-bench-kernels"))  # noqa: S108


def make_model(folder: Path, bits: str = "bf16", is_native: bool = True) -> Any:
    """A `LanguageModel`; `bits` is bf16, int8 or int4."""
    model: MicroLM = load_exported(folder)
    if bits != "bf16":
        embedding = "int8" if bits == "int4" else bits
        form = Quantization.model_validate({"linear": bits, "embedding": embedding})
        model = QuantizedMicroLM.of(model, form)
    if not is_native:
        return model
    native = NativeModel(model, KERNELS)
    torch.set_num_threads(1)  # OpenMP's waiting threads would take the cores from the kernels'
    return native


def make_engine(folder: Path, bits: str = "bf16", is_native: bool = True, **options: Any) -> Engine:
    """An engine of an exported shape."""
    return Engine(make_model(folder, bits, is_native), **options)
