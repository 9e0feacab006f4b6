"""Reversal: its rows are what it says, and the Transformer learns it through the loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.data.loader import IGNORED_TARGET
from mulm.errors import ConfigError, TrainingDivergedError
from mulm.manifest import Manifest
from mulm.model.transformer import Transformer, TransformerConfig
from mulm.model.transformer_decoding import beam_search
from mulm.model.weights import load_weights, read_tensors
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.objectives.reversal import (
    BEGIN,
    CONFIG,
    END,
    PAD,
    SHAPE,
    Reversal,
    reverse,
    symbols,
)
from mulm.train.sync.single import SingleSync

SMALL = replace(SHAPE, d_model=16, n_layers=1, n_heads=2, d_k=0, d_v=0, d_ff=32)


def a_config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(CONFIG | {"precision": "fp32"} | changes)


def a_context(folder: Path) -> LocalContext:
    nothing = Manifest(kind="dataset", code_version="0", config={}, blobs=())
    store, device = Store(folder / "store"), torch.device("cpu")
    return LocalContext(store, nothing, folder, device, lambda *_: None, lambda: False)


def test_rows_are_sequences_and_their_reversal(tmp_path: Path) -> None:
    config = a_config()
    objective = Reversal(config, a_context(tmp_path), SHAPE)
    ((source_BS, read_BT, said_BT, _),) = objective.micro_batches(0, 0, config.n_rows)
    assert source_BS.shape == (64, 11)
    lengths = set()
    for source, read, said in zip(source_BS, read_BT, said_BT, strict=True):
        word = list(symbols(source))
        lengths.add(len(word))
        n_left = 10 - len(word)
        assert source.tolist() == word + [PAD] * (n_left + 1)
        assert said.tolist() == [*word[::-1], END] + [IGNORED_TARGET] * n_left
        assert read.tolist() == [BEGIN, *word[::-1]] + [PAD] * n_left
    assert lengths == set(range(1, 11))


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    config = a_config(steps=2)
    context = a_context(tmp_path)
    train(config, context, Reversal(config, context, SMALL, n_held_out=4))
    with pytest.raises(ConfigError, match="began with the transformer"):
        train(config, context, Reversal(config, context, replace(SMALL, dropout=0.5)))


def test_numbers_that_are_not_finite_are_divergence(tmp_path: Path) -> None:
    objective = Reversal(a_config(), a_context(tmp_path), SMALL, n_held_out=4)
    model = objective.build(torch.Generator())
    with torch.no_grad():
        model.embedding.weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError):
        objective.validate(model, torch.float32, SingleSync())


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 3}, {"max_seq_len": 10}, {"pad_id": 4}], ids=str
)
def test_impossible_shapes_are_refused(changes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot reverse"):
        Reversal(a_config(), a_context(tmp_path), replace(SMALL, **changes))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_transformer_learns_to_reverse(tmp_path: Path) -> None:
    """More than 99 % of held-out sequences without a mistake; half a minute of one CPU."""
    config = a_config(validate_every=900)
    context = a_context(tmp_path)
    objective = Reversal(config, context, SHAPE)
    result = train(config, context, objective)
    assert result.judged_by == "exact"
    assert result.validation > 0.99

    manifest = context.store.load(result.model_id)
    model = stored(context.store, manifest)
    source = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 10], [18, 3, 18, PAD, PAD, PAD, PAD, PAD]])
    assert reverse(model, source) == [(10, 9, 8, 7, 6, 5, 4, 3), (18, 3, 18)]
    best = [
        found[0]
        for found in beam_search(
            model, source, begin_id=BEGIN, end_id=END, max_tokens=source.shape[1] + 1
        )
    ]
    assert [hypothesis.tokens for hypothesis in best] == [(10, 9, 8, 7, 6, 5, 4, 3), (18, 3, 18)]


def stored(store: Store, manifest: Manifest) -> Transformer:
    shape = TransformerConfig(**json.loads(store.read(manifest.blob("config.json"))))
    model = Transformer(shape)
    weights = read_tensors(store.read(manifest.blob("model.safetensors")))
    load_weights(model, weights, manifest.id)
    return model.eval()
