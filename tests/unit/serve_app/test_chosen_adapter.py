"""Which versions the adapters of a deployment are, and what becomes of one that does not fit."""

from __future__ import annotations

import pytest

from mulm.errors import ConfigError, ConflictError, NotFoundError
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import tiny_stored_adapter, tiny_stored_model, tiny_tokenizer
from serve_app.chosen_adapter import choose_adapters
from serve_app.settings import AppArgs


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def facts(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def base(store, facts):
    made = tiny_stored_model(store, tiny_tokenizer())
    facts.publish("model", "demo", made.id)
    facts.set_alias("model", "demo", "live", 1)
    for seed in (1, 2):
        facts.publish("model", "poems", tiny_stored_adapter(store, made, seed).id)
    return made


@pytest.fixture
def other(store, facts):
    """A model that has nothing to do with the first."""
    made = tiny_stored_model(store, tiny_tokenizer(), qk_norm=False)
    facts.publish("model", "other", made.id)
    return made


def test_references_mean_versions(store, facts, base):
    facts.set_alias("model", "poems", "live", 1)
    adapters = {"poems": "poems", "first": "poems@1", "alive": "poems@live"}
    args = AppArgs(model="demo@1", adapters=adapters)
    found = choose_adapters(args, base, store, facts)
    assert [(each.name, each.ref) for each in found] == [
        ("poems", "poems@2"), ("first", "poems@1"), ("alive", "poems@1")
    ]  # fmt: skip
    assert found[1].id == found[2].id != found[0].id
    for each in found:
        each.require_usable()


@pytest.mark.parametrize("wrong", ["other", "demo"])
def test_one_that_does_not_fit_is_an_error_beside_a_pinned_model(store, facts, base, other, wrong):
    with pytest.raises(ConflictError, match=f"{wrong}@1 has no adapter"):
        choose_adapters(AppArgs(model="demo@1", adapters={"x": wrong}), base, store, facts)
    with pytest.raises(NotFoundError):
        choose_adapters(AppArgs(model="demo@1", adapters={"x": "x"}), base, store, facts)


def test_beside_a_model_that_is_followed_it_has_a_problem(store, facts, base, other):
    args = AppArgs(model="demo@live", adapters={"poems": "poems"})
    assert choose_adapters(args, base, store, facts)[0].problem == ""
    (found,) = choose_adapters(args, other, store, facts)
    assert "poems@2 is of another model than demo@live" in found.problem
    with pytest.raises(ConflictError, match="of another model") as refused:
        found.require_usable()
    assert refused.value.details["param"] == "model"


@pytest.mark.parametrize(
    "adapters", [{"demo": "poems"}, {"A B": "poems"}, {"poems": "no such!"}, {"poems": 3}]
)
def test_impossible_settings_are_refused(adapters):
    with pytest.raises((ConfigError, ValueError)):
        AppArgs(model="demo@1", adapters=adapters)


@pytest.mark.parametrize(
    ("model", "adapter", "is_followed"),
    [("m", "a@1", False), ("m@1", "a@live", True), ("m@live", "a", True)],
)
def test_aliases_are_followed(model, adapter, is_followed):
    assert AppArgs(model=model, adapters={"x": adapter}).is_followed == is_followed
