"""What cannot be served is told before anything is deployed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mulm.errors import ConfigError, CorruptError, NotFoundError, TokenizerMismatchError
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import tiny_llama3_tokenizer, tiny_stored_model, tiny_tokenizer
from serve_app.checked_args import require_window, with_pinned_draft
from serve_app.settings import AppArgs


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def versions(store) -> dict[str, Manifest]:
    tokenizer, other = tiny_tokenizer(), tiny_llama3_tokenizer()
    return {
        "big": tiny_stored_model(store, tokenizer),
        "small": tiny_stored_model(store, tokenizer, n_layers=1),
        "other": tiny_stored_model(store, other),
    }


@pytest.fixture
def facts(tmp_path, versions) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as ledger:
        for name, manifest in versions.items():
            ledger.publish("model", name, manifest.id)
        yield ledger


def test_a_name_is_pinned_and_an_alias_stays_one(store, facts, versions):
    big = versions["big"]
    facts.publish("model", "small", versions["big"].id)
    facts.set_alias("model", "small", "fast", 1)
    pinned = {
        draft: with_pinned_draft(AppArgs(model="big@1", draft=draft), big, store, facts).draft
        for draft in ("small", "small@1", "small@fast")
    }
    assert pinned == {"small": "small@2", "small@1": "small@1", "small@fast": "small@fast"}
    assert with_pinned_draft(AppArgs(model="big@1"), big, store, facts).draft is None


@pytest.mark.parametrize("model", ["big@1", "big@live"])
def test_before_anything_is_deployed_a_wrong_draft_is_told_in_any_case(
    store, facts, versions, model
):
    for draft, error in (("other", TokenizerMismatchError), ("nobody", NotFoundError)):
        with pytest.raises(error):
            with_pinned_draft(AppArgs(model=model, draft=draft), versions["big"], store, facts)


def test_a_damaged_draft_is_told_before_anything_is_deployed(store, facts, versions):
    [weights] = store.paths([versions["small"].blob("model.safetensors")])
    weights.chmod(0o600)
    weights.write_bytes(b"short")
    with pytest.raises(CorruptError):
        with_pinned_draft(AppArgs(model="big@1", draft="small"), versions["big"], store, facts)


def test_a_window_is_one_of_the_models(facts):
    version = facts.versions("model")[0]
    require_window(None, version, {"max_seq_len": 64})
    require_window(64, version, {"max_seq_len": 64})
    with pytest.raises(ConfigError, match="65"):
        require_window(65, version, {"max_seq_len": 64})
