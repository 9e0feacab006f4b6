from __future__ import annotations

from playwright.sync_api import expect


def test_who_has_changed_what_of_all_and_of_one(site, enter):
    hostile = "/api/v1/models/<img src=x>"
    notes = [("key_000000000002", hostile, "403"), ("user:<b>me</b>", "key_1", "done")]
    for who, subject, outcome in notes:
        site.ledger.add_audit(who, "req_1", "PUT", "/x", subject, outcome)
    page = enter("#/audit")
    rows = page.get_by_role("table", name="Audit").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("user:<b>me</b>")
    expect(rows.nth(1)).to_contain_text(f"friendPUT{hostile}403")
    page.get_by_role("button", name="friend").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_text("friend alone")).to_be_visible()
    page.get_by_role("button", name="Everybody").click()
    expect(rows).to_have_count(2)
    for _ in range(60):
        site.ledger.add_audit("key_000000000001", "req_1", "PUT", "/x", "more", "200")
    expect(rows).to_have_count(50, timeout=15_000)
    page.get_by_role("button", name="Older ones").click()
    expect(rows).to_have_count(62)
    assert page.locator("main img").count() == 0
