"""Small models of many shapes, and how a native one is read; for the tests of this folder."""

from __future__ import annotations

import torch

from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.config import Llama3Rope, MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.native.model import NativeModel

SHAPES = {
    "plain": {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_head": 16, "d_ff": 96},
    "odd": {"d_model": 72, "n_heads": 6, "n_kv_heads": 2, "d_head": 20, "d_ff": 77},
    "many heads": {"d_model": 48, "n_heads": 8, "n_kv_heads": 1, "d_head": 32, "d_ff": 64},
    "untied": {"d_model": 32, "n_heads": 2, "n_kv_heads": 2, "d_head": 64, "d_ff": 48,
               "tie_embeddings": False, "qk_norm": False},
    "scaled": {"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "d_head": 16, "d_ff": 32,
               "rope_scaling": Llama3Rope(factor=4, low_freq_factor=1, high_freq_factor=4,
                                          original_max_seq_len=64)},
    "wide head": {"d_model": 16, "n_heads": 2, "n_kv_heads": 1, "d_head": 1024, "d_ff": 16},
}  # fmt: skip
N_PAGES = 120


def micro(shape: str = "plain", dtype: torch.dtype = torch.float32, seed: int = 0) -> MicroLM:
    config = MicroLMConfig(vocab_size=101, n_layers=2, max_seq_len=1400, **SHAPES[shape])
    generator = torch.Generator().manual_seed(seed)
    model = MicroLM(config).init_weights(generator)
    for name, parameter in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            parameter.data.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
        elif parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return model.to(dtype).eval().requires_grad_(False)


def tokens(n: int, seed: int = 1) -> list[int]:
    return torch.randint(0, 101, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def pages_for(n_tokens: int, first: int = 0) -> list[int]:
    """Scattered pages: consecutive ones would hide a wrong table."""
    return [(first + 7 * i) % N_PAGES for i in range(-(-n_tokens // PAGE_TOKENS))]


def read(model: NativeModel, ids: list[int], chunks: list[int] | None = None) -> torch.Tensor:
    cache, at, parts = model.make_cache(N_PAGES), 0, []
    for n in chunks or [len(ids)]:
        parts.append(
            model.extend(Batch.of((ids[at : at + n], at, pages_for(at + n)), wants_all=True), cache)
        )
        at += n
    return torch.cat(parts)


@torch.inference_mode()
def expected(model: MicroLM, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0].float()
