"""The way from the Transformer to the µLM begins at one, ends at the other, and is documented."""

from __future__ import annotations

import re
from dataclasses import astuple
from pathlib import Path

import pytest
import torch

from benchmarks import transformer_to_microlm as way
from benchmarks.decoder_variants import DecoderVariant, Size, Switches
from mulm.model.microlm import MicroLM
from mulm.model.transformer import EncoderLayer, create_look_ahead_mask, positional_encoding

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial-transformer.md"


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(1))


def stirred(variant: DecoderVariant) -> DecoderVariant:
    """Random numbers also where training begins with zeros and ones."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in variant.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return variant


def test_without_switches_it_is_the_papers_layers_under_a_look_ahead_mask() -> None:
    size = Size()
    variant = DecoderVariant(size, Switches()).init_weights(torch.Generator().manual_seed(0))
    stirred(variant).requires_grad_(False)
    source = ids(2, 20)
    table = positional_encoding(size.max_seq_len, size.d_model)
    x_BTD = variant.embedding(source) * size.d_model**0.5 + table[:20]
    names = {
        "query": "attention.q", "key": "attention.k", "value": "attention.v",
        "out": "attention.out",
    }  # fmt: skip
    for block in variant.blocks:
        weights, layer = block.state_dict(), EncoderLayer(size.transformer())
        renamed = {f"attention.{a}.weight": weights[f"{b}.weight"] for a, b in names.items()}
        for kind in ("weight", "bias"):
            renamed[f"attention_end.norm.{kind}"] = weights[f"attention_norm.{kind}"]
            renamed[f"feed_forward_end.norm.{kind}"] = weights[f"mlp_norm.{kind}"]
            renamed[f"feed_forward.up.{kind}"] = weights[f"mlp.up.{kind}"]
            renamed[f"feed_forward.down.{kind}"] = weights[f"mlp.down.{kind}"]
        layer.load_state_dict(renamed)
        x_BTD = layer(x_BTD, create_look_ahead_mask(20))
    torch.testing.assert_close(variant(source), x_BTD.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", [-2, -1])
def test_with_all_switches_it_is_the_microlm(place: int) -> None:
    switches = way.changes()[place].switches
    assert switches is not None
    variant = stirred(DecoderVariant(Size(), switches)).requires_grad_(False)
    model = MicroLM(Size().microlm(switches)).requires_grad_(False)
    model.load_state_dict(variant.state_dict())
    torch.testing.assert_close(model(ids(2, 20)), variant(ids(2, 20)))
    assert torch.equal(variant.output_weight_VD, model.output_weight_VD)


def test_each_change_is_one_more_switch() -> None:
    switches = [change.switches for change in way.changes()[1:]]
    counts = [sum(astuple(made)) for made in switches if made is not None]
    assert counts == list(range(10))


@pytest.mark.parametrize("place", [0, 1, 9])
def test_variants_train_through_the_loop(place: int) -> None:
    n_parameters, found = way.measure_loss((way.changes()[place], 1, 0))
    assert n_parameters > 100_000
    assert 5.0 < found < 9.0


def test_the_table_says_what_was_measured() -> None:
    rows = [
        way.Row(change, 1000 + n, [3.0 - n / 10, 3.2 - n / 10], [0.5 + n / 2])
        for n, change in enumerate(way.changes()[:3])
    ]
    lines = way.table(rows).splitlines()
    assert lines[2] == "| encoder-decoder | 1,000 | 3.100 ± 0.100 |  | 2.00 |"
    assert lines[4] == "| pre-norm | 1,002 | 2.900 ± 0.100 | -0.100 | 0.67 |"


def test_speed_is_measured_for_every_row() -> None:
    rows = [way.Row(change) for change in way.changes()[:3]]
    way.measure_speed(rows, 2)
    assert [len(row.step_s) for row in rows] == [2, 2, 2]


def test_the_tutorial_runs_and_names_every_change() -> None:
    page = TUTORIAL.read_text("utf-8")
    names = re.findall(r"^\| ([^|]+) \| [\d,]+ \|", page, re.M)
    assert names == [change.name for change in way.changes()]
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) >= 8
    together: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(TUTORIAL), "exec"), together)
