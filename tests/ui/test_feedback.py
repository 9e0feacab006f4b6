from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from mulm.records import Answered

WEAK_KEY = "mulm_sk_" + "w" * 43
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e"
)


def say(page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_text("first after").first).to_be_visible()


def wholes(site):
    return [site.ledger.one_feedback(line.id) for line in site.ledger.feedback()]


def pressed(page, name: str):
    return page.get_by_role("button", name=name, pressed=True)


def test_an_answer_is_judged_by_keyboard_and_judged_anew(site, enter):
    page = enter("#/chat")
    page.get_by_text("Settings").first.click()
    page.get_by_label("System prompt A").fill("Be kind.")
    say(page, "Hello")
    page.get_by_role("group", name="Answer; the arrow keys").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Good answer")).to_be_focused()
    page.keyboard.press("Enter")
    expect(pressed(page, "Good answer")).to_be_focused()
    expect(page.get_by_text("Noted.")).to_be_visible()
    [given] = wholes(site)
    answered = given.answered
    assert (given.verdict, given.key_id) == ("up", "key_000000000001")
    assert (answered.model, answered.model_id, answered.answer) == ("tiny", "mdl_1", "Hello there")
    assert answered.messages == (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
    )
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(pressed(page, "Bad answer")).to_be_focused()
    expect(pressed(page, "Good answer")).to_have_count(0)
    page.keyboard.press("Tab")
    page.keyboard.type(HOSTILE)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Noted, with why.")).to_be_visible()
    [changed] = wholes(site)
    assert (changed.id, changed.verdict, changed.comment) == (given.id, "down", HOSTILE)
    assert changed.answered == answered


def test_why_goes_with_its_own_verdict_alone(site, enter):
    page = enter("#/chat")
    say(page, "Hello")
    page.get_by_role("button", name="Good answer").click()
    page.get_by_label("Why").fill("kind")
    page.get_by_role("button", name="Say so").click()
    expect(page.get_by_text("Noted, with why.")).to_be_visible()
    page.get_by_role("button", name="Bad answer").click()
    expect(pressed(page, "Bad answer")).to_have_count(1)
    expect(page.get_by_label("Why")).to_have_value("")
    [given] = site.ledger.feedback()
    assert (given.verdict, given.comment) == ("down", "")


def test_of_two_models_side_by_side_each_answer_is_judged_for_itself(site, enter):
    page = enter("#/chat")
    page.get_by_label("Two side by side").check()
    say(page, "Hello")
    panes = [page.get_by_role("region", name=f"Conversation {name}") for name in "AB"]
    panes[0].get_by_role("button", name="Good answer").click()
    panes[1].get_by_role("button", name="Bad answer").click()
    for pane, name in zip(panes, ("Good answer", "Bad answer"), strict=True):
        expect(pressed(pane, name)).to_have_count(1)
    assert sorted(given.verdict for given in site.ledger.feedback()) == ["down", "up"]
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="Chat").click()
    expect(pressed(page, "Good answer")).to_have_count(1)


def test_a_key_for_inference_judges_too_and_a_refusal_presses_nothing(site, tab):
    page = tab(expected=("status of 503",))
    session = json.dumps({"key": WEAK_KEY, "scope": "inference"})
    page.add_init_script(f"sessionStorage.setItem('mulm', {json.dumps(session)})")
    page.goto(f"{site.url}#/chat")
    say(page, "Hello")
    refusal = {"detail": "the disk is away", "code": "not_running", "hint": "<b>wait</b>"}
    page.route("**/api/v1/feedback", lambda each: each.fulfill(status=503, json=refusal), times=1)
    page.get_by_role("button", name="Good answer").click()
    told = page.get_by_role("alert").filter(has_text="the disk is away")
    expect(told).to_contain_text("<b>wait</b>")
    expect(pressed(page, "Good answer")).to_have_count(0)
    page.get_by_role("button", name="Good answer").click()
    expect(pressed(page, "Good answer")).to_have_count(1)
    assert [given.key_id for given in site.ledger.feedback()] == ["key_000000000002"]


@pytest.mark.parametrize("text", [HOSTILE, "x" * 200_000])
def test_what_was_said_is_listed_as_the_text_that_it_is(site, enter, text):
    asked = {"role": "user", "content": text}
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": text, "arguments": "{}"}]}
    answered = Answered("<i>tiny</i>", (asked, call), text, "mdl_1")
    site.ledger.give_feedback("fb_1", "key_1", answered, "down", text[:4000])
    site.ledger.give_feedback("fb_2", "key_1", Answered("tiny", (asked,), "fine"), "up")
    page = enter("#/feedback")
    rows = page.get_by_role("table", name="Feedback").locator("tbody tr")
    expect(rows.nth(0)).to_contain_text("fine")
    expect(rows.nth(1)).to_contain_text(text[:100])
    expect(rows.nth(1)).to_contain_text("<i>tiny</i>")
    rows.nth(1).locator("summary").click()
    expect(rows.nth(1).locator(".turns .answer").last).to_contain_text(text[:100])
    site.ledger.give_feedback("fb_3", "key_1", Answered("tiny", (asked,), "later"), "down")
    expect(rows.nth(0)).to_contain_text("later", timeout=15_000)
    expect(rows.nth(2).locator(".turns")).to_be_visible()
    page.get_by_role("button", name="up").click()
    expect(rows).to_have_count(1)
    assert "owned" not in page.title()
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_conversation_is_fetched_when_it_is_opened_and_once(site, enter):
    asked = ({"role": "user", "content": "Tell a story. " * 40},)
    site.ledger.give_feedback("fb_1", "key_1", Answered("tiny", asked, "Once. " * 100), "up")
    page = enter("#/runs")
    replies = []
    page.on("response", lambda reply: replies.append(reply) if "/feedback" in reply.url else None)
    page.get_by_role("link", name="Feedback").click()
    row = page.get_by_role("table", name="Feedback").locator("tbody tr").filter(has_text="Once.")
    expect(row).to_contain_text("Tell a story.")
    assert all(len(reply.body()) < 1000 for reply in replies)
    row.locator("summary").click()
    expect(row.locator(".turns .answer").last).to_have_text("Once. " * 100)
    site.ledger.give_feedback("fb_2", "key_1", Answered("tiny", asked, "later"), "down")
    expect(page.get_by_role("row").filter(has_text="later")).to_be_visible(timeout=15_000)
    expect(row.locator(".turns")).to_be_visible()
    assert sum(reply.url.endswith("/fb_1") for reply in replies) == 1
