from __future__ import annotations

import pytest
from playwright.sync_api import expect

from mulm.engine.stats import EngineStats
from serve_app.engine_report import EngineReport, Place


@pytest.fixture
def stocked(site):
    site.versions()
    return site


def serve(site, model: str = "tiny@1", name: str = "pet") -> None:
    spec = {"args": {"model": model, "served_name": name}}
    site.ledger.set_deployment(name, spec, f"serve {model}")


def test_a_model_is_served_and_its_engines_are_seen(stocked, enter):
    page = enter("#/deployments")
    expect(page.get_by_text("Nothing is served.")).to_be_visible()
    page.get_by_role("combobox").select_option("tiny@1")
    page.get_by_label("Name for clients").fill("pet")
    page.get_by_role("button", name="Serve it").last.click()
    card = page.get_by_role("region", name="pet")
    expect(card.locator(".head .badge")).to_have_text("running")
    expect(card.get_by_role("link", name="tiny@1")).to_be_visible()
    place = Place("engine-pet-r1", "<b>a card</b>", "bfloat16", 2_000_000_000)
    stats = EngineStats(2, 1, 30, 10, 4, 5, 600, 70, 800, 90)
    stocked.reports.append(EngineReport("mdl_1", "eng_1", stats, "pet", 123.4, place))
    row = card.get_by_role("row").filter(has_text="engine-pet-r1")
    expect(row).to_contain_text("<b>a card</b> bfloat16")
    expect(row).to_contain_text("123")
    expect(row).to_contain_text("2 GB")
    page.get_by_role("link", name="Chat").click()
    expect(page.get_by_label("Model A").locator("option")).to_have_text(["pet", "tiny"])


def test_what_somebody_types_survives_news(stocked, enter):
    serve(stocked)
    page = enter("#/deployments")
    page.get_by_label("Another model").fill("tiny@2")
    place = Place("engine-pet-r1", "cpu", "float32", 1)
    stats = EngineStats(2, 1, 30, 10, 4, 5, 600, 70, 800, 90)
    stocked.reports.append(EngineReport("mdl_1", "eng_1", stats, "pet", 55.0, place))
    expect(page.get_by_role("row").filter(has_text="55")).to_be_visible()
    expect(page.get_by_label("Another model")).to_have_value("tiny@2")
    expect(page.get_by_label("Another model")).to_be_focused()
    page.get_by_role("button", name="Serve it").first.click()
    expect(page.get_by_text("revision 2")).to_be_visible()
    assert stocked.ledger.deployment("pet").spec["args"]["model"] == "tiny@2"


def test_scaled_with_a_canary_rolled_back_and_removed(stocked, enter):
    serve(stocked)
    page = enter("#/deployments")
    page.get_by_label("Engines at most").fill("3")
    page.get_by_role("button", name="Scale").click()
    expect(page.get_by_text("revision 2")).to_be_visible()
    page.get_by_label("Another model").fill("tiny@2")
    page.get_by_role("button", name="As canary").click()
    expect(page.get_by_role("link", name="tiny@2")).to_be_visible()
    expect(page.get_by_text("90 %")).to_be_visible()
    page.get_by_role("button", name="Promote the canary").click()
    expect(page.get_by_text("revision 4")).to_be_visible()
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("button", name="Really roll back?").click()
    expect(page.get_by_text("back to revision")).to_be_visible()
    page.get_by_text("History", exact=True).click()
    expect(page.get_by_role("table", name="History").locator("tbody tr")).to_have_count(5)
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Really remove?").click()
    expect(page.get_by_text("Nothing is served.")).to_be_visible()
    assert stocked.ledger.deployments() == []


def test_a_change_of_what_somebody_else_changed_is_refused_and_shown(stocked, enter):
    serve(stocked)
    page = enter("#/deployments", expected=("status of 412",))
    page.get_by_label("Engines at most").fill("3")
    page.route("**/api/v1/deployments?*", lambda route: None)
    serve(stocked, "tiny@2")
    page.get_by_role("button", name="Scale").click()
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("revision 2 by now")
    assert stocked.ledger.deployment("pet").spec["args"]["model"] == "tiny@2"
