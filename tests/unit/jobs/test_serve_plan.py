"""What `mulm serve` settles before anything is deployed."""

from __future__ import annotations

import pytest

from jobs.serve_plan import adapters_by_name, plan_serving
from mulm.errors import ConfigError, ConflictError, CorruptError, NotFoundError
from mulm.ledger import Ledger
from mulm.model.adapter_version import ADAPTER
from mulm.store import Store
from mulm.testing import tiny_stored_adapter, tiny_stored_model, tiny_tokenizer


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def facts(tmp_path, store):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        base = tiny_stored_model(store, tiny_tokenizer())
        ledger.publish("model", "demo", base.id)
        ledger.set_alias("model", "demo", "live", 1)
        for seed in (1, 2):
            ledger.publish("model", "poems", tiny_stored_adapter(store, base, seed).id)
        ledger.set_alias("model", "poems", "live", 1)
        yield ledger


def test_names_are_pinned_and_aliases_followed(store, facts):
    plan = plan_serving(store, facts, "demo", ["poems", "old=poems@1", "alive=poems@live"])
    assert plan.args.model == "demo@1"
    adapters = {"poems": "poems@2", "old": "poems@1", "alive": "poems@live"}
    assert plan.args.adapters == adapters
    assert plan.versions == {"demo": "demo@1"} | adapters | {"alive": "poems@1"}
    followed = plan_serving(store, facts, "demo@live", values={"n_slots": 3, "min_replicas": None})
    assert (followed.args.model, followed.args.n_slots) == ("demo@live", 3)


def test_settings_by_key_are_checked_and_pinned_too(store, facts):
    plan = plan_serving(store, facts, "demo", ["poems"], None, ["adapters.old=poems@1"])
    assert plan.args.adapters == {"poems": "poems@2", "old": "poems@1"}
    with pytest.raises(ConfigError, match="more than demo@1 can read"):
        plan_serving(store, facts, "demo", overrides=["max_seq_len=5000"])


@pytest.mark.parametrize("model", ["demo", "demo@live"])
def test_an_adapter_that_does_not_fit_is_told_before_anything_starts(store, facts, model):
    with pytest.raises(ConflictError, match="demo@1 has no adapter"):
        plan_serving(store, facts, model, ["x=demo"])
    with pytest.raises(ConflictError, match="in its weights already"):
        plan_serving(store, facts, "poems@1", ["x=poems@1"])
    with pytest.raises(NotFoundError):
        plan_serving(store, facts, model, ["prose"])


def test_a_damaged_adapter_is_told(store, facts):
    manifest = store.load(facts.versions("model", "poems")[1].manifest_id)
    path = store.path(manifest.blob(ADAPTER))
    path.chmod(0o600)
    path.write_bytes(b"x")
    with pytest.raises(CorruptError):
        plan_serving(Store(store.root), facts, "demo", ["poems"])


def test_two_of_one_name_are_refused():
    assert adapters_by_name(["a", "b=a@2"]) == {"a": "a", "b": "a@2"}
    with pytest.raises(ConfigError, match="served as 'a'"):
        adapters_by_name(["a", "a@2"])
