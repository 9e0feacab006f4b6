"""The shapes on which inference is measured, and one set of random weights for all engines.

Called by the scripts of `benchmarks/serve*.py`. `export` writes the same weights through the
product's own exports: a store for us, a folder for transformers and vLLM, GGUF for llama.cpp.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch

from mulm.atomic import atomic_folder
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.gguf_blocks import BLOCK_TYPES
from mulm.model.gguf_model import write_gguf
from mulm.model.hf_folder import write_hf_folder
from mulm.model.microlm import MicroLM
from mulm.model.model_files import open_model_files
from mulm.model.stored import load_model, store_model
from mulm.store import Store
from mulm.testing import tiny_model, tiny_tokenizer

MAX_SEQ_LEN = 8192
SHAPES = {
    "20M": MicroLMConfig(
        vocab_size=16384, d_model=384, n_layers=8, n_heads=6, n_kv_heads=2, d_head=64,
        d_ff=1024, max_seq_len=MAX_SEQ_LEN, qk_norm=False,
    ),
    "135M": MicroLMConfig(
        vocab_size=49152, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_head=64,
        d_ff=1536, max_seq_len=MAX_SEQ_LEN, qk_norm=False,
    ),
    "tiny": MicroLMConfig(
        vocab_size=320, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, d_head=16,
        d_ff=128, max_seq_len=MAX_SEQ_LEN, qk_norm=False,
    ),
}  # fmt: skip
QUANTS = ("bf16", "q8_0", "q4_0")
_GAIN = 2.0
"""Of all matrices: the next token then depends on the text more than on rounding."""


def weights_folder(root: Path, shape: str) -> Path:
    """The exports of a shape, made if they are not there yet.

    bf16.gguf, q8_0.gguf, q4_0.gguf; hf/; store/ and manifest.json for us.
    """
    folder = root / shape
    if not folder.exists():
        with atomic_folder(folder) as room:
            export(room, SHAPES[shape])
    return folder


def export(folder: Path, config: MicroLMConfig) -> None:
    """Write one set of random bf16 weights for everybody."""
    store = Store(folder / "store")
    tokenizer = _tokenizer(config.vocab_size)
    manifest = store_model(
        store, random_model(config), tokenizer.to_bytes(), tokenizer.fingerprint,
        config={"name": "random"}, parents={},
    )  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"id": manifest.id}))
    with open_model_files(store, manifest) as files:
        write_hf_folder(folder / "hf", files, b"random weights")
        for quant in QUANTS:
            write_gguf(folder / f"{quant}.gguf", files, BLOCK_TYPES[quant], name="random")


def random_model(config: MicroLMConfig, seed: int = 0) -> MicroLM:
    """Random weights in bf16."""
    model = tiny_model(seed, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(_GAIN if parameter.ndim == 2 else 1.0)
    return model.to(torch.bfloat16)


def load_exported(folder: Path, dtype: torch.dtype = torch.bfloat16) -> MicroLM:
    """Our model of an exported shape."""
    store, manifest = open_exported(folder)
    return load_model(store, manifest, dtype=dtype)


def open_exported(folder: Path) -> tuple[Store, Manifest]:
    """Our store of an exported shape, and the model's version in it."""
    store = Store(folder / "store")
    return store, store.load(json.loads((folder / "manifest.json").read_text())["id"])


def matrix_bytes(config: MicroLMConfig, bytes_per_weight: float = 2.0) -> float:
    """What a token at batch 1 reads at least: every matrix once, the tied embedding as output."""
    return bytes_per_weight * (config.n_parameters - (2 * config.n_layers + 1) * config.d_model)


def _tokenizer(vocab_size: int) -> Tokenizer:
    if vocab_size < 16384:
        return tiny_tokenizer()
    books = sorted(Path("corpora/books").glob("*.txt.gz"))
    texts = [gzip.decompress(book.read_bytes()).decode("utf-8", "replace") for book in books]
    return train_tokenizer(texts, 16384)
