"""What the kernels cannot compute is refused, and nothing is read or written out of bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulm.model.batch import Batch
from mulm.model.config import MicroLMConfig
from mulm.model.lora import adapt
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.native.build import NoKernelsError
from mulm.native.model import NativeModel
from tests.unit.native.shapes import N_PAGES, expected, micro, read, tokens


def with_width(**widths: int) -> MicroLM:
    shape = {"d_model": 16, "n_heads": 1, "n_kv_heads": 1, "d_head": 8, "d_ff": 16} | widths
    config = MicroLMConfig(vocab_size=7, n_layers=1, max_seq_len=8, **shape)
    return MicroLM(config).requires_grad_(False)


def test_a_head_that_there_is_no_room_for_is_refused(tmp_path):
    with pytest.raises(NoKernelsError, match="d_head is 1026"):
        NativeModel(with_width(d_head=1026), tmp_path)


def test_a_type_without_kernels_is_refused(tmp_path):
    with pytest.raises(NoKernelsError, match=r"torch\.float16"):
        NativeModel(with_width().half(), tmp_path)


def test_sums_that_do_not_fit_are_refused(tmp_path):
    form = Quantization(linear="int8", embedding="int8")
    with pytest.raises(NoKernelsError, match="32 bits"):
        NativeModel(QuantizedMicroLM.of(with_width(d_ff=70_000), form), tmp_path)


def test_adapters_are_not_lost_silently(tmp_path):
    generator = torch.Generator().manual_seed(0)
    adapted = adapt(with_width(), rank=2, scale=1, matrices=["q"], generator=generator)
    with pytest.raises(NoKernelsError, match="not merged"):
        NativeModel(adapted, tmp_path)


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


FINE = Batch.of((range(20), 3, [5, 9]), ([1], 0, [2]))
WRONG = {
    "id above": ("token id", {"ids_T": int32(*[1] * 20, 101)}),
    "id below": ("token id", {"ids_T": int32(*[1] * 20, -1)}),
    "positions jump": ("position", {"positions_T": int32(*range(19), 30, 0)}),
    "position below": ("position", {"positions_T": int32(*range(-1, 19), 0)}),
    "past the window": ("position", {"positions_T": int32(*range(1385, 1405), 0)}),
    "page above": ("page", {"pages_SP": int32(5, 120, 2, 0).view(2, 2)}),
    "page below": ("page", {"pages_SP": int32(5, -1, 2, 0).view(2, 2)}),
    "pages too few": ("page", {"pages_SP": int32(5, 2).view(2, 1)}),
    "row above": ("row", {"wanted_R": int32(21)}),
    "row below": ("row", {"wanted_R": int32(-1)}),
    "empty sequence": ("follow", {"begins_S1": int32(0, 0, 21)}),
    "begins late": ("follow", {"begins_S1": int32(1, 20, 21)}),
    "ends late": ("follow", {"begins_S1": int32(0, 20, 22)}),
    "no sequence": ("follow", {"begins_S1": int32(0), "pages_SP": int32().view(0, 2)}),
    "positions too few": ("positions_T", {"positions_T": int32(*range(20))}),
    "positions too many": ("positions_T", {"positions_T": int32(*range(20), 0, 0)}),
    "a column of positions": ("positions_T", {"positions_T": int32(*range(20), 0).view(-1, 1)}),
    "tables too few": ("pages_SP", {"pages_SP": int32(5, 9).view(1, 2)}),
    "tables too many": ("pages_SP", {"pages_SP": int32(5, 9, 2, 0, 1, 1).view(3, 2)}),
    "no table": ("pages_SP", {"pages_SP": int32(5, 9)}),
    "adapters too few": ("adapters_S", {"adapters_S": int32(-1)}),
    "adapters too many": ("adapters_S", {"adapters_S": int32(-1, -1, -1)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_batch_is_refused_and_changes_nothing(kernels, name):
    word, change = WRONG[name]
    native = NativeModel(micro(), kernels, 2)
    cache = native.make_cache(N_PAGES)
    before = native.extend(FINE, cache)
    with pytest.raises(IndexError, match=word):
        native.extend(replace(FINE, **change), cache)
    assert torch.equal(native.extend(FINE, cache), before)


def test_what_an_unused_place_of_the_table_holds_does_not_matter(kernels):
    native = NativeModel(micro(), kernels, 2)
    cache = native.make_cache(N_PAGES)
    table = replace(FINE, pages_SP=int32(5, 9, 2, -7).view(2, 2))
    assert torch.equal(native.extend(table, cache), native.extend(FINE, cache))


def test_the_cache_of_another_model_is_refused(kernels):
    cache = NativeModel(micro("odd"), kernels, 1).make_cache(N_PAGES)
    with pytest.raises(AssertionError, match="another model"):
        NativeModel(micro(), kernels, 1).extend(FINE, cache)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_widest_head(kernels, dtype):
    model, ids = micro("wide head", dtype), tokens(40)
    found, wanted = read(NativeModel(model, kernels, 2), ids), expected(model, ids)
    assert (found - wanted).norm() < (1e-4 if dtype is torch.float32 else 0.03) * wanted.norm()
