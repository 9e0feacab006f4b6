"""A stored model comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from mulm.model.stored import load_model, store_model
from mulm.store import Store
from mulm.testing import TINY, tiny_model


def test_a_stored_model_comes_back(tmp_path: Path) -> None:
    store, model = Store(tmp_path), tiny_model()
    first = store_model(store, model, b"{}", "f" * 24, config={"name": "t"}, parents={})
    again = store_model(store, model, b"{}", "f" * 24, config={"name": "t"}, parents={})
    assert first.id == again.id
    assert json.loads(store.read(first.blob("config.json"))) == TINY.to_stored()
    read = load_model(store, first)
    ids_BT = torch.arange(20)[None]
    assert torch.equal(read(ids_BT), model(ids_BT))
    assert load_model(store, first, dtype=torch.bfloat16).embedding.weight.dtype == torch.bfloat16
