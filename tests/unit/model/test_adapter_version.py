"""An adapter serves the model that it was trained on, and those made from that; nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mulm.errors import ConflictError, CorruptError
from mulm.manifest import Manifest
from mulm.model.adapter import Adapter
from mulm.model.adapter_version import require_fit
from mulm.model.stored import load_adapter, store_model
from mulm.store import Store
from mulm.testing import TINY, tiny_model, tiny_stored_adapter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def stored(store: Store, seed: int, tokenizer: str = "0" * 24, **parents: str) -> Manifest:
    return store_model(store, tiny_model(seed), b"{}", tokenizer, config={}, parents=parents)


def check(store: Store, adapter: Manifest, base: Manifest) -> None:
    require_fit(store, adapter, base, name="poems@1", beside="demo@1")


def test_an_adapter_comes_back_as_it_was_stored(store: Store) -> None:
    version = tiny_stored_adapter(store, stored(store, 0), matrices=("q", "down"))
    adapter = load_adapter(store, version)
    assert set(adapter.changes) == {
        (layer, name) for layer in range(TINY.n_layers) for name in ("attention.q", "mlp.down")
    }
    again = Adapter.of_tensors(adapter.tensors())
    assert again.tensors().keys() == adapter.tensors().keys()
    for name, tensor in adapter.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


@pytest.mark.parametrize("name", ["layers.0.attention.q.inner", "layers.x.q.inner", "other"])
def test_a_file_of_other_names_is_refused(name: str) -> None:
    with pytest.raises(CorruptError, match="an adapter's file"):
        Adapter.of_tensors({name: torch.zeros(2, 2)})
    both = {f"{name}.inner": torch.zeros(2, 2), f"{name}.outer": torch.zeros(2, 2)}
    if not name.startswith("layers.0"):
        with pytest.raises(CorruptError, match="names a matrix"):
            Adapter.of_tensors(both)


def test_it_fits_its_base_and_what_was_made_from_that(store: Store) -> None:
    base = stored(store, 0)
    adapter = tiny_stored_adapter(store, base)
    further = stored(store, 2, init_from=base.id)
    smaller = stored(store, 3, model=further.id)
    for model in (base, further, smaller):
        check(store, adapter, model)


def test_what_does_not_belong_together_is_refused_with_its_reason(store: Store) -> None:
    base = stored(store, 0)
    adapter = tiny_stored_adapter(store, base)
    with pytest.raises(ConflictError, match="poems@1 has no adapter"):
        check(store, stored(store, 4, init_from=base.id), base)
    with pytest.raises(ConflictError, match="of another model than demo@1"):
        check(store, adapter, stored(store, 5))
    with pytest.raises(ConflictError, match="of another model"):
        check(store, adapter, stored(store, 5, teacher=base.id))
    for having in (adapter, stored(store, 6, model=adapter.id)):
        with pytest.raises(ConflictError, match="in its weights already"):
            check(store, adapter, having)
    with pytest.raises(ConflictError, match="another tokenizer"):
        check(store, adapter, stored(store, 7, "1" * 24, init_from=base.id))
    pruned = store_model(
        store, tiny_model(config=TINY.model_copy(update={"d_ff": 32})), b"{}", "0" * 24,
        config={}, parents={"model": base.id},
    )  # fmt: skip
    with pytest.raises(ConflictError, match="another shape"):
        check(store, adapter, pruned)
