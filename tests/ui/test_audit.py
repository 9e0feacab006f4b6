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


def test_names_of_keys_are_asked_for_once_and_again_for_a_new_one(site, enter, wait_until):
    for who in ("key_000000000002", "key_revoked", "user:me"):
        site.ledger.add_audit(who, "req_1", "PUT", "/x", "/x", "200")
    page = enter("#/runs")
    asked = []
    page.on("request", lambda request: asked.append(request.url.partition("/v1/")[2]))
    page.get_by_role("link", name="Keys").click()
    page.get_by_role("table", name="Keys").wait_for()
    asked.clear()
    page.get_by_role("link", name="who has changed what").click()
    rows = page.get_by_role("table", name="Audit").locator("tbody tr")
    expect(rows.filter(has_text="friend")).to_have_count(1)

    def n_asked(name: str) -> int:
        page.wait_for_timeout(50)
        return sum(url.startswith(name) for url in asked)

    wait_until(lambda: n_asked("audit") >= 3, timeout_s=20.0)
    assert n_asked("keys") == 1
    site.ledger.add_key("key_000000000003", "digest", "newcomer")
    site.ledger.add_audit("key_000000000003", "req_1", "PUT", "/x", "/x", "200")
    expect(rows.filter(has_text="newcomer")).to_have_count(1)
    assert n_asked("keys") == 2
