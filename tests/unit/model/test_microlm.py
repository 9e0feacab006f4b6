"""The model: causal, the same with and without a cache, as large as it says."""

from __future__ import annotations

import pytest
import torch

from mulm.errors import UnknownNameError
from mulm.model.batch import Batch
from mulm.model.config import MicroLMConfig, YarnRope
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
def test_prompts_in_pieces_equal_one_forward(pieces: tuple[int, ...]) -> None:
    model, ids_T = tiny_model(), ids(20)
    expected_TD = model(ids_T[None])[0]
    cache, position = model.make_cache(8), 0
    for length in pieces:
        part = ids_T[position : position + length].tolist()
        hidden = model.extend(Batch.of((part, position, [5, 2]), wants_all=True), cache)
        torch.testing.assert_close(hidden, expected_TD[position : position + length])
        position += length


def test_streams_beside_a_prompt_equal_forward() -> None:
    model, ids_BT = tiny_model(), ids(4, 24)
    expected_BTD = model(ids_BT)
    cache = model.make_cache(9)
    pages, ends = [[7, 1], [0, 8], [3, 2]], [5, 1, 11]
    for row, end in enumerate(ends):
        model.extend(Batch.of((ids_BT[row, :end].tolist(), 0, pages[row])), cache)
    for step in range(12):
        parts = [([int(ids_BT[row, ends[row]])], ends[row], pages[row]) for row in (0, 1, 2)]
        prompt = (ids_BT[3, 2 * step : 2 * step + 2].tolist(), 2 * step, [6, 4])
        hidden_RD = model.extend(Batch.of(*parts, prompt), cache)
        wanted_RD = [expected_BTD[row, ends[row]] for row in (0, 1, 2)]
        wanted_RD.append(expected_BTD[3, 2 * step + 1])
        torch.testing.assert_close(hidden_RD, torch.stack(wanted_RD))
        ends = [end + 1 for end in ends]


def test_a_page_forgets_the_sequence_before() -> None:
    model, first, second = tiny_model(), ids(30).tolist(), ids(6).tolist()
    used, unused = model.make_cache(2), model.make_cache(2)
    model.extend(Batch.of((first, 0, [0, 1])), used)
    batch = Batch.of((second, 0, [0]))
    assert torch.equal(model.extend(batch, used), model.extend(batch, unused))


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


def test_what_a_broken_model_leaves_in_a_page_spoils_nobody() -> None:
    model, table, other = tiny_model(), [1, 2, 3], [4, 5, 6]
    short, long = ids(6).tolist(), ids(40).tolist()
    with torch.inference_mode():
        clean = model.extend(Batch.of((short[:5], 0, table)), model.make_cache(8))
        cache = model.make_cache(8)
        cache.k_LPXKH.fill_(float("nan"))
        cache.v_LPXKH.fill_(float("nan"))
        assert torch.equal(model.extend(Batch.of((short[:5], 0, table)), cache), clean)
        model.extend(Batch.of((long[:39], 0, other)), cache)
        streams = Batch.of((short[5:], 5, table), (long[39:], 39, other))
        assert not model.extend(streams, cache).isnan().any(), (
            "page 0 is nobody's and was never read"
        )
