from __future__ import annotations

from playwright.sync_api import expect

from mulm.errors import OverloadedError


def say(page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def answers(page):
    return page.locator(".model .answer")


def test_a_conversation_goes_on(site, enter):
    page = enter("#/chat")
    say(page, "Hello")
    expect(answers(page)).to_have_text(["Hello there"])
    expect(page.get_by_text("tokens,").first).to_be_visible()
    site.engine.text = "The wizard"
    say(page, "And then?")
    expect(answers(page)).to_have_text(["Hello there", "The wizard"])
    first, second = site.engine.requests
    assert len(second.prompt_ids) > len(first.prompt_ids)
    decoded = site.served.tokenizer.decode(second.prompt_ids)
    assert decoded.index("Hello there") < decoded.index("And then?")
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="Chat").click()
    expect(answers(page)).to_have_text(["Hello there", "The wizard"])
    page.get_by_role("button", name="New conversation").click()
    expect(answers(page)).to_have_count(0)


def test_two_models_side_by_side(site, enter):
    page = enter("#/chat")
    page.get_by_label("Two side by side").check()
    say(page, "Hello")
    expect(answers(page)).to_have_text(["Hello there", "Hello there"])
    assert len(site.engine.requests) == 2


def test_what_is_streamed_is_seen_at_once_and_stopped_on_demand(site, enter, wait_until):
    site.engine.text, site.engine.pause_s = "Hello there, how are you? " * 40, 0.05
    page = enter("#/chat")
    say(page, "Go on")
    expect(answers(page)).to_contain_text("Hello")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("stopped")).to_be_visible()
    wait_until(lambda: site.engine.n_left == 1)
    expect(page.get_by_label("Message")).to_be_focused()


def test_each_token_shows_its_odds_and_its_rivals(site, enter):
    page = enter("#/chat")
    say(page, "Hello")
    page.locator(".token").first.hover()
    expect(page.get_by_role("status")).to_contain_text("77.9 %")
    expect(page.get_by_role("status")).to_contain_text("13.5 %")
    page.get_by_role("group", name="Answer").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("status")).to_contain_text("77.9 %")
    page.keyboard.press("Escape")
    expect(page.locator(".tip")).to_be_hidden()
    page.get_by_label("Token probabilities").uncheck()
    say(page, "Hello")
    expect(answers(page)).to_have_text(["Hello there"] * 2)
    assert site.engine.requests[-1].sampling.logprobs is None


def test_an_engine_that_breaks_says_so(site, enter):
    site.engine.end = OverloadedError("too much to do", hint="come back")
    page = enter("#/chat", expected=("status of 503",))
    say(page, "Hello")
    expect(page.get_by_role("alert").filter(has_text="too much to do")).to_be_visible()
    expect(answers(page)).to_have_text(["Hello there"])


def ask_pet(site, enter):
    """A chat with a model whose window is 64 tokens, fewer than the page asks for."""
    site.versions()
    spec = {"args": {"model": "tiny@1", "served_name": "pet"}}
    site.ledger.set_deployment("pet", spec, "serve tiny@1")
    page = enter("#/deployments")
    expect(page.locator(".head .badge")).to_have_text("running")
    page = enter("#/chat", expected=("status of 400",))
    page.get_by_label("Model A").select_option("pet")
    return page


def test_a_message_that_is_too_long_is_asked_once_and_the_server_says_so(site, enter):
    page = ask_pet(site, enter)
    asked = []
    page.on("request", lambda each: asked.append(each) if "completions" in each.url else None)
    say(page, "Hello " * 60)
    alert = page.get_by_role("alert").filter(has_text="the model's window is 64 tokens")
    expect(alert).to_contain_text("shorten the prompt")
    expect(page.get_by_label("Message")).to_be_focused()
    assert len(asked) == 1
    assert site.engine.requests == []


def test_a_small_window_gives_what_fits(site, enter):
    page = ask_pet(site, enter)
    say(page, "Hello")
    expect(answers(page)).to_have_text(["Hello there"])
    [request] = site.engine.requests
    assert len(request.prompt_ids) + request.sampling.max_tokens == 64
