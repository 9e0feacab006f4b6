"""Where nothing is yet, it says what makes the first of it."""

from __future__ import annotations

from playwright.sync_api import expect

FIRST = {
    "#/runs": "mulm train examples/demo.yaml",
    "#/datasets": "mulm data build examples/sample.yaml",
    "#/models": "mulm train examples/demo.yaml",
    "#/tokenizers": "mulm tokenizer train",
    "#/deployments": "mulm serve demo",
    "#/feedback": "POST /api/v1/feedback",
    "#/audit": "mulm key",
}


def test_every_list_that_is_empty_says_what_makes_the_first(site, enter):
    page = enter("#/keys")
    expect(page.get_by_text("Nothing in the last 14 days.")).to_contain_text("is counted here")
    for place, command in FIRST.items():
        page.evaluate(f"location.hash = '{place}'")
        expect(page.locator("code").filter(has_text=command).first).to_be_visible()
    expect(page.get_by_role("main")).not_to_contain_text("`")
    page.evaluate("location.hash = '#/deployments'")
    expect(page.get_by_text("No models yet.")).to_be_visible()
    page.evaluate("location.hash = '#/runs'")
    page.get_by_role("button", name="failed").click()
    expect(page.get_by_text("No run is failed.")).to_be_visible()


def test_what_is_new_says_what_comes(site, enter):
    site.versions()
    page = enter("#/models/tiny@1")
    expect(page.locator("code").filter(has_text="mulm eval tiny@1")).to_be_visible()
    expect(page.get_by_text("The form below makes the first one.")).to_be_visible()
    site.fixed.clear()
    page.evaluate("location.hash = '#/chat'")
    expect(page.get_by_text("No model is served yet.")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Deployments").click()
    expect(page.get_by_role("heading", name="Deployments")).to_be_focused()
    run = site.run()
    page.evaluate(f"location.hash = '#/runs/{run}'")
    page.get_by_text("Numbers", exact=True).click()
    expect(page.get_by_text("A training tells them with its first steps.")).to_be_visible()
