"""For everybody: by keyboard alone, on a phone, in the dark, and by the rules of axe."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from mulm.records import Answered

KEY = "mulm_sk_" + "k" * 43
RUN = "run_0123456789ab"
PLACES = (
    "#/runs",
    f"#/runs/{RUN}",
    f"#/compare/{RUN},run_000000000001",
    "#/chat",
    "#/models",
    "#/models/tiny@2",
    "#/datasets/made@1",
    "#/deployments",
    "#/keys",
    "#/feedback",
    "#/audit",
)


@pytest.fixture
def full(site, made):
    """A site with something in every view."""
    site.versions()
    site.ledger.set_alias("model", "tiny", "live", 1)
    spec = {"args": {"model": "tiny@1", "served_name": "pet"}}
    site.ledger.set_deployment("pet", spec, "serve tiny@1")
    asked = ({"role": "user", "content": "Who are you?"},)
    site.ledger.give_feedback("fb_1", "key_1", Answered("tiny", asked, "x" * 500), "down", "why")
    site.ledger.add_audit("key_000000000001", "req_1", "PUT", "/x", "x" * 200, "200")
    site.ledger.create_run("run_measured", "evaluate", {"model": "tiny@2"})
    measured = {"bits_per_byte": 2.0, "xz_bits_per_byte": 3.0}
    site.ledger.set_phase("run_measured", "succeeded", result=measured)
    site.step(site.run("run_000000000001", name="other", seed=3), *range(1, 30))
    run = site.run(name="a-name-" + "x" * 100)
    site.step(run, *range(1, 80))
    error = {"code": "job_failed", "message": "it broke", "hint": "mend it"}
    site.ledger.append_events(
        run,
        [
            ("sample", {"step": 9, "prompt": "Once", "text": "upon a time " * 30}),
            ("log", {"text": "a line " * 20}),
            ("phase", {"phase": "running", "error": error}),
        ],
    )
    return site


def settled(page, place: str) -> None:
    """What a view shows is there."""
    if "run_" in place:
        expect(page.get_by_role("img", name=re.compile("^Loss.* points")).first).to_be_visible()
    elif place == "#/chat":
        page.get_by_label("Two side by side").check()
        page.get_by_label("Model A").select_option("tiny")
        page.get_by_label("Model B").select_option("tiny")
        page.get_by_label("Message").fill("Hello")
        page.get_by_label("Message").press("Enter")
        expect(page.locator(".model .answer").first).to_have_text("Hello there")
        page.get_by_role("button", name="Bad answer").first.click()
        expect(page.get_by_label("Why").first).to_be_visible()
    elif "datasets" in place:
        expect(page.locator(".document")).to_have_count(4)
    elif "@" in place:
        expect(page.get_by_role("table", name="Evaluations")).to_be_visible()
    else:
        expect(page.get_by_role("table").first).to_be_visible()
    if place == "#/keys":
        page.get_by_role("button", name="Change friend").click()
    page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    if "datasets" in place:
        expect(page.locator(".bars li").first).to_be_visible()


def test_the_sign_in_is_for_everybody(full, tab):
    page = tab()
    page.goto(full.url)
    expect(page.get_by_label("API key")).to_be_visible()
    look(page)


@pytest.mark.parametrize("place", PLACES)
def test_every_view_is_for_everybody(full, enter, place):
    page = enter(place)
    settled(page, place)
    look(page)


def look(page) -> None:
    """By the rules of axe in the light and in the dark, and on the smallest phone."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page).response["violations"]
        assert [f"{each['id']}: {node['target']}" for each in found for node in each["nodes"]] == []
    page.set_viewport_size({"width": 320, "height": 640})
    wide = """() => [...document.querySelectorAll('body *')].filter((e) =>
        e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, nav, pre, svg'))
        .map((e) => e.tagName + '.' + e.className)"""
    assert page.evaluate(wide) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_whole_way_without_a_mouse(full, tab):
    page = tab()
    page.goto(full.url)
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_focused()
    link = page.get_by_role("link", name="other")
    expect(link).to_be_visible()
    walk_to(page, link)
    full.run("run_00000000000b", name="new")  # the list is drawn anew
    expect(page.get_by_role("link", name="new", exact=True)).to_be_visible()
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="other", level=1)).to_be_focused()
    chart = page.get_by_role("img", name=re.compile("^Loss"))
    expect(chart).to_be_visible()
    walk_to(page, chart)
    page.keyboard.press("End")
    expect(page.locator(".readout").first).to_contain_text("step 29")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".readout").first).to_contain_text("step 28")
    page.keyboard.press("Home")
    expect(page.locator(".readout").first).to_contain_text("step 1")
    page.keyboard.press("Escape")
    expect(page.locator(".readout").first).not_to_contain_text("step")
    page.go_back()
    expect(page.get_by_role("heading", name="Runs", level=1)).to_be_focused()


def walk_to(page, wanted, most: int = 60) -> None:
    """Press Tab until it has the focus, and see that the focus can be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.evaluate("(e) => e === document.activeElement"):
            outline = wanted.evaluate("(e) => getComputedStyle(e).outlineStyle")
            assert outline != "none"
            return
    raise AssertionError("Tab does not lead there")
