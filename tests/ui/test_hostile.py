"""Whatever a model, a corpus or a config says is shown as the text that it is."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

ATTACKS = (
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "\"><svg/onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{constructor.constructor('document.title=1')()}}",
)
RIGHT_TO_LEFT = "\u202egnp.exe \u2066abc"


def is_untouched(page) -> bool:
    assert "owned" not in page.title() or "<" in page.title()
    assert page.locator("main img, main script, main iframe, main svg[onload]").count() == 0
    return True


@pytest.mark.parametrize("text", [*ATTACKS, RIGHT_TO_LEFT])
def test_a_model_that_writes_markup(site, enter, text):
    site.engine.text = text
    page = enter("#/chat")
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_text("first after")).to_be_visible()
    assert page.locator(".you .answer").text_content() == text
    assert page.locator(".model .answer").text_content() == text
    assert is_untouched(page)


@pytest.mark.parametrize("text", [ATTACKS[0] + ATTACKS[1], RIGHT_TO_LEFT, "x" * 1_000_000])
def test_a_run_whose_every_text_is_hostile(site, enter, wait_until, text):
    run = site.run(name=text, dataset=text, **{"<b>key</b>": text})
    site.jobs.log = text
    site.ledger.append_events(
        run,
        [
            ("metric", {"step": 1, "loss": 2.0, "<img src=x>": 1.0, "validation_<b>": 2.0}),
            ("progress", {"stage": text, "done": 1, "total": 2, "unit": text, "eta_s": 1}),
            ("sample", {"step": 1, "prompt": text, "text": text}),
            ("log", {"text": text}),
            (text[:500], {text[:500]: text}),
        ],
    )
    page = enter("#/runs")
    shown = text if len(text) <= 80 else text[:80]
    link = page.get_by_role("table", name="Runs").locator("tbody th a")
    expect(link).to_contain_text(shown)
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0
    link.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(text[:100])
    for name in ("Numbers", "Log", "Config"):
        page.get_by_text(name, exact=True).click()
    expect(page.get_by_label("Log", exact=True)).to_contain_text(text[:100])
    expect(page.get_by_text("<b>key</b>")).to_be_visible()
    expect(page.locator(".samples dd")).to_contain_text(text[:100])
    assert is_untouched(page)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_megabyte_can_be_read_to_its_end(site, enter):
    text = "a" * 999_999 + "z"
    run = site.run()
    site.ledger.append_events(run, [("sample", {"step": 1, "prompt": "p", "text": text})])
    page = enter(f"#/runs/{run}")
    said = page.locator(".samples dd")
    expect(said).to_contain_text("998,000 more characters")
    for _ in range(10):
        said.get_by_role("button").click()
    assert said.text_content() == text


def test_markup_could_not_be_written_even_by_mistake(site, enter):
    """The browser itself refuses: the policy leaves no way from a text to markup or a script."""
    page = enter("#/runs", expected=("Trusted", "Content Security Policy", "Refused"))
    write = "() => { try { document.body.innerHTML = '<i>x</i>'; } catch (e) { return e.name } }"
    assert page.evaluate(write) == "TypeError"
    page.evaluate(
        "() => { const s = document.createElement('link'); s.rel = 'stylesheet';"
        " s.href = 'https://example.org/x.css'; document.head.append(s); }"
    )
    page.evaluate("() => fetch('https://example.org/').catch(() => 0)")
    frame = page.context.new_page()
    frame.goto("about:blank")
    frame.evaluate(
        "(url) => new Promise((done) => { const f = document.createElement('iframe');"
        " f.onload = done; f.src = url; document.body.append(f); })",
        site.url,
    )
    inner = frame.frames[-1]
    assert inner.locator("#main").count() == 0
