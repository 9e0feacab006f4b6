"""The model: causal, the same with and without a cache, as large as it says."""

from __future__ import annotations

import pytest
import torch

from mulm.errors import UnknownNameError
from mulm.model.config import MicroLMConfig, YarnRope
from mulm.model.kv_cache import KVCache
from mulm.model.layers import rotary_factors, rotary_tables
from mulm.model.microlm import MicroLM
from mulm.model.presets import PARAMETERS_BY_PRESET, PRESETS, preset
from mulm.testing import TINY, tiny_model


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, TINY.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def test_a_token_sees_nothing_after_it() -> None:
    model, ids_BT = tiny_model(), ids(2, 20)
    changed_BT = ids_BT.clone()
    changed_BT[:, 12:] = (changed_BT[:, 12:] + 1) % TINY.vocab_size
    before, after = model(ids_BT), model(changed_BT)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_every_token_sees_all_before_it() -> None:
    model, ids_BT = tiny_model(), ids(1, 20)
    changed_BT = ids_BT.clone()
    changed_BT[0, 0] = (changed_BT[0, 0] + 1) % TINY.vocab_size
    difference_T = (model(ids_BT) - model(changed_BT)).abs().sum(-1)[0]
    assert (difference_T > 0).all()


def test_position_matters() -> None:
    ids_BT = torch.tensor([[5, 5, 9, 5]])
    hidden = tiny_model()(ids_BT)
    assert not torch.allclose(hidden[0, 1], hidden[0, 3])


def test_yarn_keeps_what_turns_fast_and_sharpens_attention() -> None:
    """With Qwen3's numbers 24 of 64 pairs turn as before, and the last 24 four times slower."""
    yarn = YarnRope(factor=4, original_max_seq_len=32768)
    changes = {"d_head": 128, "rope_theta": 1e6, "rope_scaling": yarn}
    config = TINY.model_copy(update=changes)
    factors = rotary_factors(config)
    assert (factors == 1).sum() == 24
    assert (factors == 4).sum() == 24
    assert (factors.diff() >= 0).all()
    cos_PH, _ = rotary_tables(config)
    assert float(cos_PH[0, 0]) == pytest.approx(1.138629, abs=1e-6)


@pytest.mark.parametrize("pieces", [(20,), (1, 19), (7, 1, 12)])
def test_prefill_in_pieces_equals_one_forward(pieces: tuple[int, ...]) -> None:
    model, ids_T = tiny_model(), ids(20)
    expected_TV = model.logits(model(ids_T[None]))[0]
    cache, position = KVCache(TINY, n_slots=3, max_seq_len=32), 0
    for length in pieces:
        logits_V = model.prefill(ids_T[position : position + length], cache, 1, position)
        position += length
        torch.testing.assert_close(logits_V, expected_TV[position - 1])


@pytest.mark.parametrize("slots", [(0, 1, 2), (2, 0, 3), (3, 2, 1)])
def test_decode_equals_forward(slots: tuple[int, ...]) -> None:
    model, ids_BT = tiny_model(), ids(3, 24)
    expected_BTV = model.logits(model(ids_BT))
    cache = KVCache(TINY, n_slots=4, max_seq_len=32)
    starts = (5, 1, 11)
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        model.prefill(ids_BT[row, :start], cache, slot, 0)
    rows_B, positions_B = torch.arange(3), torch.tensor(starts)
    for _ in range(12):
        tokens_B = ids_BT[rows_B, positions_B]
        logits_BV = model.decode(tokens_B, cache, torch.tensor(slots), positions_B)
        torch.testing.assert_close(logits_BV, expected_BTV[rows_B, positions_B])
        positions_B = positions_B + 1


def test_a_slot_forgets_the_sequence_before() -> None:
    model, first_T, second_T = tiny_model(), ids(30), ids(6)
    used, unused = (KVCache(TINY, n_slots=1, max_seq_len=32) for _ in range(2))
    model.prefill(first_T, used, 0, 0)
    assert torch.equal(model.prefill(second_T, used, 0, 0), model.prefill(second_T, unused, 0, 0))


def test_a_cache_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        KVCache(TINY, n_slots=1, max_seq_len=TINY.max_seq_len + 1)


def test_fresh_blocks_are_the_identity() -> None:
    model = MicroLM(TINY).init_weights(torch.Generator().manual_seed(0))
    ids_BT = ids(1, 5)
    assert torch.equal(model(ids_BT), model.norm(model.embedding(ids_BT)))


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = MicroLM(TINY).init_weights(torch.Generator().manual_seed(seed))
        return model.embedding.weight

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_counts_its_parameters(qk_norm: bool, tie_embeddings: bool) -> None:
    changes = {"qk_norm": qk_norm, "tie_embeddings": tie_embeddings}
    config = TINY.model_copy(update=changes)
    counted = sum(parameter.numel() for parameter in MicroLM(config).parameters())
    assert config.n_parameters == counted


@pytest.mark.parametrize("name", PARAMETERS_BY_PRESET)
def test_presets_have_the_size_they_promise(name: str) -> None:
    config = preset(name, 32_768)
    assert config.n_parameters == pytest.approx(PARAMETERS_BY_PRESET[name], rel=0.03)
    with torch.device("meta"):
        model = MicroLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.n_parameters


def test_base_is_a_gigabyte_in_bf16_and_demo_is_small() -> None:
    assert 0.93e9 < 2 * preset("base", 32_768).n_parameters < 0.97e9
    assert preset("demo", 4096).n_parameters < 5_000_000


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as error:
        preset("mirco", 4096)
    assert "'micro'" in error.value.hint
    assert PRESETS == ("demo", "nano", "micro", "mini", "base", "wide")


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple of n_kv_heads"):
        MicroLMConfig.model_validate(TINY.model_dump() | {"n_heads": 3})
