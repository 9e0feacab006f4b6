"""A draft has the model's own tokenizer, or is refused, or, behind an alias, left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from mulm.errors import ConfigError, MulmError, NotFoundError, TokenizerMismatchError
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import tiny_llama3_tokenizer, tiny_stored_model, tiny_tokenizer
from serve_app.draft import draft_for, require_fit
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
        "padded": tiny_stored_model(store, tokenizer, vocab_size=tokenizer.vocab_size + 64),
    }


@pytest.fixture
def facts(tmp_path, versions) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.db") as ledger:
        for name, manifest in versions.items():
            ledger.publish("model", name, manifest.id)
        yield ledger


def test_a_draft_is_found_by_its_reference(store, facts, versions):
    big = versions["big"]
    assert draft_for(big, AppArgs(model="big@1"), store, facts) is None
    for draft in ("small", "small@1"):
        found = draft_for(big, AppArgs(model="big@1", draft=draft), store, facts)
        assert found == versions["small"]


WRONG: dict[str, type[MulmError]] = {
    "other": TokenizerMismatchError,
    "padded": ConfigError,
    "nobody": NotFoundError,
}


@pytest.mark.parametrize("draft", WRONG)
def test_one_that_does_not_fit_is_refused_and_behind_an_alias_left_out(
    store, facts, versions, draft, caplog
):
    big = versions["big"]
    with pytest.raises(WRONG[draft]) as caught:
        draft_for(big, AppArgs(model="big@1", draft=draft), store, facts)
    if draft != "nobody":
        assert caught.value.details["param"] == "draft"
        assert repr(draft) in caught.value.message
    with caplog.at_level(logging.WARNING):
        assert draft_for(big, AppArgs(model="big@live", draft=draft), store, facts) is None
    assert f"draft left out draft={draft} reason=" in caplog.text


def test_a_model_of_the_same_tokenizer_keeps_the_draft_behind_an_alias(store, facts, versions):
    args = AppArgs(model="big@live", draft="small@1")
    assert draft_for(versions["big"], args, store, facts) == versions["small"]
    assert draft_for(versions["other"], args, store, facts) is None
    assert draft_for(versions["small"], args, store, facts) == versions["small"]


def test_two_of_one_tokenizer_fit(store, versions):
    require_fit("small", versions["small"], versions["big"], store)
    require_fit("big", versions["big"], versions["small"], store)


@pytest.mark.parametrize("draft", ["", "a b", "small@0"])
def test_a_draft_is_a_reference(draft):
    with pytest.raises(ConfigError):
        AppArgs(model="big@1", draft=draft)
