"""What is settled before anything is deployed."""

from __future__ import annotations

import pytest

from jobs.serve_args import adapters_by_name, serving_args
from mulm.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    NotFoundError,
    TokenizerMismatchError,
)
from mulm.ledger import Ledger
from mulm.model.adapter_version import ADAPTER
from mulm.store import Store
from mulm.testing import (
    tiny_llama3_tokenizer,
    tiny_stored_adapter,
    tiny_stored_model,
    tiny_tokenizer,
)
from serve_app.serve_plan import plan_serving


def plan(store, facts, *asked, **options):
    return plan_serving(serving_args(*asked, **options), store, facts)


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
        for n_layers in (1, 3):
            small = tiny_stored_model(store, tiny_tokenizer(), n_layers=n_layers)
            ledger.publish("model", "small", small.id)
        ledger.set_alias("model", "small", "fast", 1)
        ledger.publish("model", "other", tiny_stored_model(store, tiny_llama3_tokenizer()).id)
        yield ledger


def test_names_are_pinned_and_aliases_followed(store, facts):
    found = plan(store, facts, "demo", ["poems", "old=poems@1", "alive=poems@live"])
    assert found.args.model == "demo@1"
    adapters = {"poems": "poems@2", "old": "poems@1", "alive": "poems@live"}
    assert found.args.adapters == adapters
    assert found.versions == {"demo": "demo@1"} | adapters | {"alive": "poems@1"}
    followed = plan(store, facts, "demo@live", values={"n_slots": 3, "min_replicas": None})
    assert (followed.args.model, followed.args.n_slots) == ("demo@live", 3)


def test_settings_by_key_are_checked_and_pinned_too(store, facts):
    found = plan(store, facts, "demo", ["poems"], None, ["adapters.old=poems@1"])
    assert found.args.adapters == {"poems": "poems@2", "old": "poems@1"}
    with pytest.raises(ConfigError, match="more than demo@1 can read"):
        plan(store, facts, "demo", overrides=["max_seq_len=5000"])


@pytest.mark.parametrize("model", ["demo", "demo@live"])
def test_an_adapter_that_does_not_fit_is_told_before_anything_starts(store, facts, model):
    with pytest.raises(ConflictError, match="demo@1 has no adapter"):
        plan(store, facts, model, ["x=demo"])
    with pytest.raises(ConflictError, match="in its weights already"):
        plan(store, facts, "poems@1", ["x=poems@1"])
    with pytest.raises(NotFoundError):
        plan(store, facts, model, ["prose"])


def test_a_damaged_adapter_is_told(store, facts):
    manifest = store.load(facts.versions("model", "poems")[1].manifest_id)
    path = store.path(manifest.blob(ADAPTER))
    path.chmod(0o600)
    path.write_bytes(b"x")
    with pytest.raises(CorruptError):
        plan(Store(store.root), facts, "demo", ["poems"])


def test_two_of_one_name_are_refused():
    assert adapters_by_name(["a", "b=a@2"]) == {"a": "a", "b": "a@2"}
    with pytest.raises(ConfigError, match="served as 'a'"):
        adapters_by_name(["a", "a@2"])


def drafted(store, facts, draft, model="demo"):
    return plan(store, facts, model, values={"draft": draft}).args.draft


def test_a_drafts_name_is_pinned_and_its_alias_stays_one(store, facts):
    found = {draft: drafted(store, facts, draft) for draft in ("small", "small@1", "small@fast")}
    assert found == {"small": "small@2", "small@1": "small@1", "small@fast": "small@fast"}
    assert drafted(store, facts, None) is None


@pytest.mark.parametrize("model", ["demo@1", "demo@live"])
def test_a_wrong_draft_is_told_before_anything_starts(store, facts, model):
    for draft, error in (("other", TokenizerMismatchError), ("nobody", NotFoundError)):
        with pytest.raises(error):
            drafted(store, facts, draft, model)


def test_a_damaged_draft_is_told(store, facts):
    manifest = store.load(facts.versions("model", "small")[1].manifest_id)
    path = store.path(manifest.blob("model.safetensors"))
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(CorruptError):
        drafted(Store(store.root), facts, "small")


def test_a_window_is_the_models_at_most(store, facts):
    for window in (None, 64):
        found = plan(store, facts, "demo", values={"max_seq_len": window})
        assert found.args.max_seq_len == window
    with pytest.raises(ConfigError, match="65"):
        plan(store, facts, "demo", values={"max_seq_len": 65})
