from __future__ import annotations

import os
import subprocess

import pytest
from playwright.sync_api import expect

from serve_app.ui.files import FILES

KEY, WEAK_KEY = "mulm_sk_" + "k" * 43, "mulm_sk_" + "w" * 43
REFUSED = "the server responded with a status of 40"


def stored(page) -> list[str]:
    read = "() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage)]"
    return page.evaluate(read)


def test_the_key_is_asked_for_once_and_lives_as_long_as_the_tab(site, tab):
    page = tab()
    page.goto(site.url)
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_focused()
    session, local = stored(page)
    assert KEY in session
    assert KEY not in local
    assert KEY not in page.content()
    page.reload()
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    other = page.context.new_page()
    other.goto(site.url)
    expect(other.get_by_label("API key")).to_be_visible()


def test_it_says_how_to_get_a_key_wherever_the_home_is(site, tab, tmp_path):
    page = tab()
    page.goto(site.url)
    told = page.locator("#key-help code").first.inner_text()
    (tmp_path / ".mulm").mkdir()
    (tmp_path / ".mulm/api_key").write_text("at home")
    (tmp_path / "api_key").write_text("elsewhere")
    for variables, key in (({}, "at home"), ({"MULM_HOME": str(tmp_path)}, "elsewhere")):
        env = {"HOME": str(tmp_path), "PATH": os.defpath} | variables
        done = subprocess.run(["sh", "-c", told], env=env, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == (key, "")


def test_it_is_remembered_on_demand_and_forgotten_at_the_sign_out(site, tab):
    page = tab()
    page.goto(site.url)
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("Remember it on this device").check()
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    other = page.context.new_page()
    other.goto(site.url)
    expect(other.get_by_role("heading", name="Runs", level=1)).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert KEY not in "".join(stored(page))


@pytest.mark.parametrize("key", ["mulm_sk_wrong", "Schlüssel", "two words"])
def test_a_wrong_key_is_told_so_and_not_kept(site, tab, key):
    page = tab(expected=(REFUSED,))
    page.goto(site.url)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("form").get_by_role("alert")).not_to_be_empty()
    assert key not in "".join(stored(page))
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()


def test_a_key_for_inference_sees_the_chat_only(site, tab):
    page = tab(expected=(REFUSED,))
    page.goto(f"{site.url}#/runs")
    page.get_by_label("API key").fill(WEAK_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Chat", level=1)).to_be_visible()
    assert page.get_by_role("navigation").get_by_role("link").all_inner_texts() == ["Chat"]


def test_a_key_that_is_revoked_leads_back_to_the_sign_in(site, enter):
    page = enter(expected=(REFUSED,))
    site.ledger.remove_key("key_000000000001")
    expect(page.get_by_label("API key")).to_be_visible(timeout=15_000)
    expect(page.locator("form").get_by_role("alert")).to_contain_text("valid")


def test_all_files_are_used_and_nothing_else_is_asked_for(site, enter):
    page = enter("#/chat")
    loaded = page.evaluate("() => performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(url.startswith(site.url) for url in loaded)
    assert {url.removeprefix(f"{site.url}ui/") for url in loaded if "/ui/" in url} == set(FILES)
