"""Attention over rows: every kernel gives the same, and packed rows what documents give alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mulm.errors import ConfigError
from mulm.model import attention
from mulm.model.attention import (
    RowAttention,
    choose_kernel,
    document_ids,
    document_positions,
)
from mulm.model.compute import Compute
from mulm.model.config import AttentionKernel
from mulm.model.microlm import MicroLM
from mulm.testing import TINY, tiny_model

SEPARATOR = 0
LONG = TINY.model_copy(update={"max_seq_len": 192})


def inputs(n_tokens: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, n_tokens, n_heads, 8, generator=generator).to(dtype).requires_grad_()
        for n_heads in (4, 2, 2)
    ]


def out_and_gradients(
    kernel: AttentionKernel, qkv: list[Tensor], documents_BT: Tensor | None
) -> list[Tensor]:
    mixed_BTNH = RowAttention(kernel, documents_BT)(0, *qkv)
    weight = torch.linspace(-1, 1, mixed_BTNH.numel()).view_as(mixed_BTNH)
    return [mixed_BTNH, *torch.autograd.grad((mixed_BTNH * weight).sum(), qkv)]


@pytest.mark.parametrize("n_tokens", [1, 64, 65, 150])
@pytest.mark.parametrize("has_documents", [False, True])
def test_plain_products_equal_torch(n_tokens: int, has_documents: bool) -> None:
    documents_BT = None
    if has_documents:
        generator = torch.Generator().manual_seed(1)
        borders_BT = torch.rand(2, n_tokens, generator=generator) < 0.03
        documents_BT = borders_BT.long().cumsum(1)
    ours = out_and_gradients("plain", inputs(n_tokens), documents_BT)
    theirs = out_and_gradients("sdpa", inputs(n_tokens), documents_BT)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("has_documents", [False, True])
def test_repeated_kv_heads_give_the_same(
    has_documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents_BT = (torch.arange(100)[None].expand(2, -1) // 30) if has_documents else None
    shared = out_and_gradients("sdpa", inputs(100), documents_BT)
    monkeypatch.setattr(attention, "can_share_kv_heads", lambda *_: False)
    repeated = out_and_gradients("sdpa", inputs(100), documents_BT)
    for a, b in zip(repeated, shared, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("dtype", "d_head", "card", "has_mask", "expected"),
    [
        (torch.bfloat16, 64, (8, 6), False, True),
        (torch.float16, 128, (12, 0), False, True),
        (torch.float32, 64, (8, 6), False, False),
        (torch.bfloat16, 64, (8, 6), True, False),
        (torch.bfloat16, 64, (7, 5), False, False),
        (torch.bfloat16, 512, (9, 0), False, False),
    ],
)
def test_kv_heads_are_shared_where_flash_computes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, d_head: int, card: tuple[int, int],
    has_mask: bool, expected: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: card)
    q_BNTH = torch.empty(1, 1, 1, d_head, dtype=dtype)
    assert attention.can_share_kv_heads(q_BNTH, has_mask)
    on_a_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=dtype, shape=q_BNTH.shape)
    assert attention.can_share_kv_heads(on_a_gpu, has_mask) == expected  # type: ignore[arg-type]


def test_plain_products_in_bf16_are_as_good_as_torch() -> None:
    exact = out_and_gradients("sdpa", inputs(100), None)
    for kernel in ("plain", "sdpa"):
        rounded = out_and_gradients(kernel, inputs(100, torch.bfloat16), None)
        for a, b in zip(rounded, exact, strict=True):
            assert (a.float() - b).norm() < 0.01 * b.norm()


def test_documents_and_positions() -> None:
    ids_BT = torch.tensor([[7, 0, 5, 5, 0, 0, 9], [0, 1, 2, 3, 4, 5, 6]])
    documents_BT = document_ids(ids_BT, SEPARATOR)
    assert documents_BT.tolist() == [[0, 1, 1, 1, 2, 3, 3], [1, 1, 1, 1, 1, 1, 1]]
    assert document_positions(documents_BT).tolist() == [
        [0, 0, 1, 2, 0, 0, 1],
        [0, 1, 2, 3, 4, 5, 6],
    ]


def gradients(model: MicroLM, hidden_BTD: Tensor) -> dict[str, Tensor]:
    weight = torch.linspace(-1, 1, hidden_BTD[0].numel()).view_as(hidden_BTD[0])
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad((hidden_BTD * weight).sum(), parameters)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
def test_packed_equals_unpacked(kernel: AttentionKernel) -> None:
    model = tiny_model(config=LONG).requires_grad_(True)
    lengths = (70, 3, 1, 86)
    generator = torch.Generator().manual_seed(2)
    pieces = [torch.randint(1, 64, (n,), generator=generator) for n in lengths]
    for piece in pieces:
        piece[0] = SEPARATOR
    packed_1T = torch.cat(pieces)[None]
    compute = Compute(attention=kernel)
    packed = model(packed_1T, compute, document_ids(packed_1T, SEPARATOR))
    alone = torch.cat([model(piece[None], compute) for piece in pieces], dim=1)
    torch.testing.assert_close(packed, alone)
    found, wanted = gradients(model, packed), gradients(model, alone)
    for name, expected in wanted.items():
        gradient = found[name]
        torch.testing.assert_close(
            gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.norm())
        )


def test_without_borders_documents_change_nothing() -> None:
    model, ids_BT = tiny_model(), torch.arange(1, 41).view(2, 20)
    torch.testing.assert_close(model(ids_BT, Compute(), document_ids(ids_BT, 0)), model(ids_BT))


@pytest.mark.parametrize(
    ("asked", "device", "n_tokens", "d_head", "kernel"),
    [
        ("auto", "cpu", 512, 64, "plain"),
        ("auto", "cpu", 4096, 64, "sdpa"),
        ("auto", "cuda", 512, 64, "sdpa"),
        ("plain", "cuda", 512, 64, "plain"),
        ("sdpa", "cuda", 512, 64, "sdpa"),
        ("flex", "cuda", 512, 16, "flex"),
    ],
)
def test_the_kernel_follows_device_and_row(
    asked: AttentionKernel, device: str, n_tokens: int, d_head: int, kernel: AttentionKernel
) -> None:  # fmt: skip
    chosen, reason = choose_kernel(asked, device, n_tokens, d_head)
    assert chosen == kernel
    assert reason


@pytest.mark.parametrize(
    ("device", "n_tokens", "d_head"), [("cpu", 512, 64), ("cuda", 512, 8), ("cuda", 500, 64)]
)
def test_a_kernel_that_is_not_there_is_refused(device: str, n_tokens: int, d_head: int) -> None:
    with pytest.raises(ConfigError, match="flex") as error:
        choose_kernel("flex", device, n_tokens, d_head)
    assert "auto" in error.value.hint
