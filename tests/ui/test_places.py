"""The address says what is shown; one that leads nowhere says so, and where to go instead."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ui.test_access import look
from tests.ui.test_signin import REFUSED, WEAK_KEY


@pytest.mark.parametrize("place", ["#/nowhere", "#/constructor", "#/keys/first", "#/%3Cb%3E"])
def test_an_address_that_leads_nowhere_says_so(site, enter, place):
    page = enter(place)
    expect(page.get_by_role("heading", name="No such page", level=1)).to_be_focused()
    expect(page.get_by_role("main")).to_contain_text(f"Nothing is at {place}.")
    expect(page).to_have_title("No such page · µLM")
    listed = page.get_by_role("list", name="Pages").get_by_role("link")
    in_the_frame = page.get_by_role("navigation").get_by_role("link")
    assert listed.all_inner_texts() == in_the_frame.all_inner_texts() != []
    look(page)
    listed.filter(has_text="Models").click()
    expect(page.get_by_role("heading", name="Models", level=1)).to_be_focused()


def test_a_key_for_inference_is_led_to_the_chat_alone(site, tab):
    page = tab(expected=(REFUSED,))
    page.goto(f"{site.url}#/nowhere")
    page.get_by_label("API key").fill(WEAK_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="No such page", level=1)).to_be_visible()
    listed = page.get_by_role("list", name="Pages").get_by_role("link")
    assert listed.all_inner_texts() == ["Chat"]


def test_no_address_is_the_first_page(site, enter):
    for place in ("", "#", "#/"):
        page = enter(place)
        expect(page.get_by_role("heading", name="Runs", level=1)).to_be_visible()
