from __future__ import annotations

from playwright.sync_api import expect

HOSTILE = "<img src=x onerror=alert(1)> \u202e dropped"


def test_documents_token_by_token_with_what_is_learned(made, enter):
    page = enter("#/datasets/made@1")
    expect(page.locator(".document")).to_have_count(4)
    before = page.locator(".document").first.text_content()
    page.get_by_role("button", name="Others").click()
    expect(page.locator(".document").first).not_to_have_text(before)
    page.get_by_label("Documents that hold").fill("who made")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".document")).to_have_count(1)
    pieces = page.locator(".piece")
    learned = "".join(page.locator(".piece:not(.unlearned)").all_text_contents())
    assert "Words, and nothing else." in learned
    assert "Who made" not in learned
    assert "Who made this dataset" in "".join(pieces.all_text_contents())
    assert page.locator(".piece.special").count() > 0
    page.get_by_label("Documents that hold").fill("nobody said this")
    page.get_by_label("Documents that hold").press("Enter")
    expect(page.get_by_text("No document is like that.")).to_be_visible()


def test_histograms_and_what_was_dropped(made, enter):
    page = enter("#/datasets/made@1")
    page.get_by_text("Statistics", exact=True).click()
    expect(page.get_by_role("heading", name="Length, tokens")).to_be_visible()
    expect(page.locator(".bars li").first).to_be_visible()
    page.get_by_text("Dropped", exact=True).click()
    expect(page.get_by_text("8 dropped beside 61 kept.")).to_be_visible()
    duplicates = page.locator("details details", has_text="duplicate")
    duplicates.locator("summary").click()
    expect(duplicates.locator(".document")).to_have_count(4)
    expect(duplicates.get_by_text("repeats text.jsonl row")).to_have_count(4)
    duplicates.get_by_role("button", name="More").click()
    expect(duplicates.locator(".document")).to_have_count(7)
    expect(duplicates.get_by_role("button", name="More")).to_be_hidden()
    page.locator("details details", has_text="too_short").locator("summary").click()
    expect(page.get_by_text(HOSTILE)).to_be_visible()
    assert page.locator("main img").count() == 0


def test_a_dataset_whose_documents_are_gone_says_so(site, enter):
    site.versions()
    page = enter("#/datasets/text@1", expected=("status of 404",))
    told = page.get_by_role("main").get_by_role("alert")
    expect(told).to_contain_text("the documents of text@1 are not here")
    expect(page.get_by_role("heading", name="Facts")).to_be_visible()
