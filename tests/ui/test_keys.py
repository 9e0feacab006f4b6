from __future__ import annotations

import time
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from mulm.accounts import KeyLimits, UsageRow
from mulm.ledger import Ledger


def names(ledger: Ledger) -> list[str]:
    return [key.name for key in ledger.valid_keys()]


def test_a_key_is_made_shown_once_and_revoked(site, enter):
    page = enter("#/keys")
    page.get_by_label("Whose it is").fill("<b>bob</b>")
    page.get_by_label("Valid").select_option("for a day")
    page.get_by_role("button", name="Make it").click()
    text = page.get_by_label("The new key").input_value()
    assert text.startswith("mulm_sk_")
    *_, made = site.ledger.valid_keys()
    assert (made.name, made.scope) == ("<b>bob</b>", "inference")
    assert made.expires_s - made.created_s == pytest.approx(86_400, abs=5)
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_label("The new key")).to_have_count(0)
    assert text not in page.content()
    row = page.get_by_role("row").filter(has_text="<b>bob</b>")
    row.get_by_role("button", name="Revoke").click()
    assert "<b>bob</b>" in names(site.ledger)
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert names(site.ledger) == ["first", "friend"]


def test_a_secret_is_replaced(site, enter):
    page = enter("#/keys")
    before = set(site.ledger.key_secrets())
    rotate = page.get_by_role("button", name="New secret for friend")
    rotate.click()
    rotate.click()
    page.get_by_label("The new key").wait_for()
    assert set(site.ledger.key_secrets()) != before


def test_use_is_told_by_name_though_it_is_known_before_the_keys(site, enter):
    hour_s = int(time.time()) // 3600 * 3600
    site.ledger.add_usage("test", 1, [UsageRow("key_000000000002", "tiny", hour_s, 3, 1, 1)])
    page = enter("#/runs")
    page.route("**/api/v1/keys*", lambda route: (time.sleep(0.5), route.continue_()))
    page.goto(site.url + "#/keys")
    told = page.get_by_role("table", name="Usage").locator("tbody tr")
    expect(told).to_contain_text("friend")


def test_nobody_locks_themselves_out(site, enter):
    page = enter("#/keys", expected=("status of 409",))
    revoke = page.get_by_role("button", name="Revoke first")
    revoke.click()
    revoke.click()
    expect(page.get_by_role("main").get_by_role("alert")).to_contain_text("cannot revoke itself")
    assert names(site.ledger) == ["first", "friend"]


def test_what_keys_have_used(site, enter):
    hour_s = int(time.time()) // 3600 * 3600
    rows = [
        UsageRow("key_000000000002", "tiny", hour_s, 3, 1000, 234),
        UsageRow("key_000000000002", "tiny", hour_s - 30 * 3600, 1, 1000, 0),
        UsageRow("key_000000000001", "<i>other</i>", hour_s, 1, 10, 20),
        UsageRow("key_000000000001", "tiny", hour_s - 60 * 86_400, 9, 9, 9),
    ]
    site.ledger.add_usage("test", 1, rows)
    page = enter("#/keys")
    told = page.get_by_role("table", name="Usage").locator("tbody tr")
    expect(told.filter(has_text="friend")).to_contain_text("tiny42,000234")
    expect(told.filter(has_text="first")).to_contain_text("<i>other</i>11020")
    expect(told).to_have_count(2)
    expect(page.locator(".bars li")).to_have_count(2)
    expect(page.locator(".bars li").filter(has_text="1,264")).to_be_visible()


def test_a_key_is_made_with_limits_and_changed(site, enter):
    page = enter("#/keys")
    fresh = page.locator("form").filter(has_text="A new key")
    fresh.get_by_label("Whose it is").fill("bob")
    fresh.get_by_role("textbox", name="Models").fill("tiny, <b>other</b>")
    fresh.get_by_label("Requests a minute").fill("5")
    fresh.get_by_label("Tokens in all").fill("1000")
    fresh.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("nothing is served as")).to_contain_text("'tiny'")
    *_, made = site.ledger.valid_keys()
    assert (made.models, made.expires_s) == (("tiny", "<b>other</b>"), None)
    assert made.limits == KeyLimits(requests_per_minute=5, token_quota=1000)
    row = page.get_by_role("row").filter(has_text="bob")
    expect(row).to_contain_text("tiny, <b>other</b>")
    expect(row).to_contain_text("requests a minute 5, tokens in all 1,000")
    row.get_by_role("button", name="Change bob").click()
    form = page.get_by_role("form", name="Change bob")
    expect(form.get_by_label("Whose it is")).to_be_focused()
    expect(form.get_by_label("Requests a minute")).to_have_value("5")
    form.get_by_role("textbox", name="Models").fill("")
    form.get_by_label("Valid").select_option("for a day from now")
    form.get_by_label("Requests a minute").fill("")
    form.get_by_label("Tokens a minute").fill("900")
    form.get_by_label("At the same time").fill("2")
    form.get_by_role("button", name="Change it").click()
    expect(form).to_have_count(0)
    expect(row.get_by_role("button", name="Change bob")).to_be_focused()
    changed = site.ledger.key(made.id)
    assert (changed.name, changed.models) == ("bob", ())
    assert changed.expires_s == pytest.approx(time.time() + 86_400, abs=60)
    limits = {"tokens_per_minute": 900, "max_concurrent": 2, "token_quota": 1000}
    assert changed.limits == KeyLimits(**limits)
    row.get_by_role("button", name="Change bob").click()
    form.get_by_label("Whose it is").fill("robert")
    form.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("row").filter(has_text="robert")).to_be_visible()
    renamed = site.ledger.key(made.id)
    assert (renamed.expires_s, renamed.limits) == (changed.expires_s, changed.limits)


def test_a_change_sends_only_what_was_changed(site, enter):
    page = enter("#/keys")
    page.get_by_role("button", name="Change friend").click()
    form = page.get_by_role("form", name="Change friend")
    friend = site.ledger.key("key_000000000002")
    meanwhile = replace(friend, models=("tiny",), limits=KeyLimits(token_quota=5))
    site.ledger.change_key(meanwhile)
    form.get_by_label("Whose it is").fill("robert")
    form.get_by_label("At the same time").fill("2")
    form.get_by_role("button", name="Change it").click()
    expect(page.get_by_role("row").filter(has_text="robert")).to_be_visible()
    limits = KeyLimits(token_quota=5, max_concurrent=2)
    assert site.ledger.key(friend.id) == replace(meanwhile, name="robert", limits=limits)
