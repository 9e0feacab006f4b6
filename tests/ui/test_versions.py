from __future__ import annotations

import pytest
from playwright.sync_api import expect

from mulm.refs import parse_ref

STALE = "the server responded with a status of 412"


@pytest.fixture
def stocked(site):
    site.versions()
    site.ledger.set_alias("model", "tiny", "live", 1)
    return site


def test_models_with_their_aliases(stocked, enter):
    page = enter("#/models")
    rows = page.get_by_role("table", name="Models").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("tiny@2")
    expect(rows.nth(1)).to_contain_text("live")
    page.get_by_role("link", name="tiny@2").click()
    expect(page.get_by_role("heading", name="tiny@2", level=1)).to_be_focused()
    page.get_by_text("Files", exact=True).click()
    expect(page.get_by_role("table", name="Files")).to_contain_text("model.safetensors")


def test_an_alias_is_moved_and_made(stocked, enter):
    page = enter("#/models/tiny@2")
    page.get_by_role("button", name="Move").click()
    expect(page.get_by_text("live points to 2 now.")).to_be_visible()
    assert stocked.ledger.aliases("model", "tiny") == {"live": 2}
    expect(page.locator(".alias")).to_contain_text("2 since now, 1 since")
    expect(page.locator(".head .tag")).to_have_text("live")
    page.get_by_label("New alias").fill("best")
    page.get_by_role("button", name="Let it point to 2").click()
    expect(page.get_by_text("best points to 2 now.")).to_be_visible()
    assert stocked.ledger.aliases("model", "tiny") == {"live": 2, "best": 2}


def test_an_alias_that_somebody_else_moved_is_not_moved(stocked, enter):
    page = enter("#/models/tiny@1", expected=(STALE,))
    expect(page.locator(".alias")).to_contain_text("points to 1")
    stocked.ledger.set_alias("model", "tiny", "live", 2)
    page.get_by_role("button", name="Move").click()
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("2")
    assert stocked.ledger.aliases("model", "tiny") == {"live": 2}
    expect(page.locator(".alias")).to_contain_text("points to 2")
    page.get_by_role("button", name="Move").click()
    expect(page.get_by_text("live points to 1 now.")).to_be_visible()


def test_what_a_model_was_made_from(stocked, enter):
    store, ledger = stocked.store, stocked.ledger
    dataset = ledger.resolve("dataset", parse_ref("text")).manifest_id
    model = store.load(ledger.versions("model", "tiny")[0].manifest_id)
    parents = {"dataset": dataset, "run": "run_0123456789ab", "init_from": model.id}
    child = model.model_copy(update={"parents": parents})
    store.save(child)
    ledger.publish("model", "child", child.id)
    page = enter("#/models/child@1", expected=("status of 404",))
    tree = page.locator(".tree")
    expect(tree.get_by_role("link")).to_have_text(["text@1", "tiny@1", "run_0123456789ab"])
    tree.get_by_role("link", name="text@1").click()
    expect(page.get_by_role("heading", name="text@1", level=1)).to_be_visible()
    expect(page.get_by_text("train tokens")).to_be_visible()


def test_no_such_version(stocked, enter):
    page = enter("#/models/tiny@9", expected=("status of 404",))
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("tiny")
