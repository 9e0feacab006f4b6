"""FlexAttention inside documents: its blocks, its mask and its result are those of the dense way.

What torch runs of it on a CPU: the way forward, uncompiled and compiled. Gradients need a GPU; the
last test is passed over without one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from mulm.model import flex_attention as ours
from mulm.model.attention import FLEX_BLOCK_TOKENS, RowAttention, document_ids
from mulm.model.flex_attention import document_blocks

UNCOMPILED = "ignore:flex_attention called without torch.compile"
BLOCKS = [
    f"{full}{side}_{what}"
    for full in ("", "full_")
    for side in ("kv", "q")
    for what in ("num_blocks", "indices")
]


def documents(n_tokens: int, share: float, seed: int = 0) -> Tensor:
    """Three rows: borders here and there, none, and one at every whole block."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = (torch.rand(3, n_tokens, generator=generator) < share).long()
    ids_BT[1] = 0
    ids_BT[2] = (torch.arange(n_tokens) % FLEX_BLOCK_TOKENS == 0).long()
    return document_ids(ids_BT, 1)


@pytest.mark.parametrize("n_tokens", [1, 127, 128, 129, 300, 512])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.2])
def test_blocks_are_those_that_the_mask_gives(n_tokens: int, share: float) -> None:
    documents_BT = documents(n_tokens, share)

    def may_see(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (documents_BT[row, query] == documents_BT[row, key])

    expected = create_block_mask(may_see, 3, None, n_tokens, n_tokens, device="cpu")
    found = document_blocks(documents_BT)
    for name in BLOCKS:
        assert torch.equal(getattr(found, name), getattr(expected, name))
    rows, times = torch.arange(3)[:, None, None], torch.arange(n_tokens)
    mask_BTT = found.mask_mod(rows, torch.tensor(0), times[:, None], times[None, :])
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    assert torch.equal(mask_BTT, same_BTT.tril())


def qkv(n_tokens: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(3, n_tokens, n_heads, 16, generator=generator).to(dtype)
        for n_heads in (4, 2, 2)
    ]


@pytest.mark.filterwarnings(UNCOMPILED)
@pytest.mark.parametrize("n_tokens", [1, 128, 300, 512])
def test_the_result_is_that_of_a_dense_mask(n_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "compiled", lambda: flex_attention)
    documents_BT = documents(n_tokens, 0.01)
    found = RowAttention("flex", documents_BT)(0, *qkv(n_tokens))
    expected = RowAttention("sdpa", documents_BT)(0, *qkv(n_tokens))
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@torch.no_grad()
def test_compiled_it_is_the_same_for_any_row() -> None:
    """A C++ compiler takes half a minute for it; a second length shows that shapes may change."""
    for n_tokens in (256, 300):
        documents_BT = documents(n_tokens, 0.01)
        found = RowAttention("flex", documents_BT)(0, *qkv(n_tokens))
        expected = RowAttention("sdpa", documents_BT)(0, *qkv(n_tokens))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_result_and_gradients_are_those_of_a_dense_mask(dtype: torch.dtype) -> None:
    documents_BT = documents(512, 0.01).cuda()
    results = []
    for kernel in ("flex", "sdpa"):
        inputs = [x.cuda().requires_grad_() for x in qkv(512, dtype)]
        mixed_BTNH = RowAttention(kernel, documents_BT)(0, *inputs)  # type: ignore[arg-type]
        weight = torch.linspace(-1, 1, mixed_BTNH.numel(), device="cuda").view_as(mixed_BTNH)
        results.append([mixed_BTNH, *torch.autograd.grad((mixed_BTNH * weight).sum(), inputs)])
    for found, expected in zip(*results, strict=True):
        share = 0.02 if dtype == torch.bfloat16 else 1e-3
        assert (found - expected).float().norm() < share * expected.float().norm()
