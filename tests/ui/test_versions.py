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


def measured(site, model: str, bits: float) -> str:
    run_id = f"run_{model.replace('@', '')}"
    site.ledger.create_run(run_id, "evaluate", {"model": model})
    acc = {"score": 0.58209, "interval": [0.52, 0.64]}
    suites = {"<b>blimp</b>": {"metrics": {"acc": acc}}}
    result = {"bits_per_byte": bits, "xz_bits_per_byte": 3.0, "dataset_id": "ds_1"}
    site.ledger.set_phase(run_id, "succeeded", result=result | {"suites": suites})
    return run_id


def test_a_model_is_measured_and_its_measures_are_seen(stocked, enter):
    page = enter("#/models/tiny@1", expected=("status of 400",))
    expect(page.get_by_text("None yet. The form below measures it")).to_be_visible()
    page.get_by_label("Suites").fill("nonsense")
    page.get_by_role("button", name="Measure it").click()
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("nonsense")
    page.get_by_label("Suites").fill("bits_per_byte, blimp")
    page.get_by_label("Held-out text of").fill("text")
    page.get_by_label("Items at most").fill("2")
    page.get_by_role("button", name="Measure it").click()
    link = page.get_by_text("It is being measured").get_by_role("link")
    run = stocked.ledger.run(link.inner_text())
    assert (run.kind, run.config["model"], run.config["limit"]) == ("evaluate", "tiny@1", 2)
    assert run.config["suites"] == ["bits_per_byte", "blimp"]
    assert run.config["dataset"] == "text@1"
    measured(stocked, "tiny@1", 2.031)
    row = page.get_by_role("table", name="Evaluations").locator("tbody tr")
    expect(row).to_contain_text("2.0313<b>blimp</b> acc 0.5821 (0.52 to 0.64)", timeout=15_000)
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_only_what_is_good_enough_is_promoted_and_why_not_is_said(stocked, enter):
    page = enter("#/models/tiny@2", expected=("status of 409",))
    form = page.get_by_role("form", name="Promotion")
    promote = form.get_by_role("button", name="Promote 2 if it is good enough")
    promote.click()
    told = form.get_by_role("alert")
    expect(told).to_contain_text("there are no bits per byte of tiny@2 and tiny@1 on one dataset")
    measured(stocked, "tiny@1", 2.0)
    measured(stocked, "tiny@2", 2.03)
    promote.click()
    expect(told).to_contain_text("2.030 bits per byte beside 2.000 (+1.50 %)")
    assert stocked.ledger.aliases("model", "tiny") == {"live": 1}
    form.get_by_label("Let through, % worse").fill("2")
    promote.click()
    expect(form.get_by_text("tiny@live points to 2 now: 2.030 bits per byte")).to_be_visible()
    expect(told).to_have_count(0)
    assert stocked.ledger.aliases("model", "tiny") == {"live": 2}
    expect(page.locator(".alias")).to_contain_text("points to 2")
    expect(page.locator(".head .tag")).to_have_text("live")
