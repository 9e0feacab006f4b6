"""The pictures of the page in the README, taken of an application that is up.

    mulm demo, mulm up, mulm serve demo; then
    python -m benchmarks.page_pictures --run RUN_ID [--model demo] [--to docs/images]

Needs Playwright and a Chromium on the path. Nothing is touched up: what is seen is what the
application of this machine tells.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from actors.cluster import connect
from mulm.home import Home
from serve_app.keys import read_first_key

WIDTH = 1180
PHONE = (390, 760)
PROMPT = "Once upon a time"
SEEDS = (10, 9)
"""With which the demo model has a line or more to say."""
ANSWER_MS = 60_000
"""How long two answers may take."""
_WORD = re.compile(r"\w{3}")
"""Of a token that is more than a sign or the end of a line."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_pictures")
    parser.add_argument("--run", required=True, help="the id of a run of training")
    parser.add_argument("--model", default="demo", help="what clients call a model that is served")
    parser.add_argument("--to", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    home = Home.from_env()
    url, key = connect(home).api_url, read_first_key(home)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        run = _page(browser, url, key, f"#/runs/{options.run}", "light", (WIDTH, 760))
        run.get_by_role("heading", name="Samples").wait_for()
        run.screenshot(path=options.to / "page-run.png")
        chat = _page(browser, url, key, "#/chat", "dark", (WIDTH, 560))
        _converse(chat, options.model)
        chat.screenshot(path=options.to / "page-chat.png")
        phone = _page(browser, url, key, f"#/runs/{options.run}", "light", PHONE)
        phone.get_by_role("heading", name="Samples").wait_for()
        phone.screenshot(path=options.to / "page-phone.png")
        browser.close()


def _page(browser: Any, url: str, key: str, place: str, colours: str, size: tuple[int, int]) -> Any:
    """A tab that is signed in."""
    viewport = dict(zip(("width", "height"), size, strict=True))
    page = browser.new_page(viewport=viewport, color_scheme=colours, reduced_motion="reduce")
    session = json.dumps({"key": key, "scope": "all"})
    page.add_init_script(f"sessionStorage.setItem('mulm', {json.dumps(session)})")
    page.goto(f"{url}/{place}")
    page.get_by_role("heading", level=1).wait_for()
    return page


def _converse(page: Any, model: str) -> None:
    """One question to two panes, and the rivals of a token in the middle of an answer."""
    page.get_by_label("Two side by side").check()
    for choice in page.locator("select[aria-label^='Model']").all():
        choice.select_option(model)
    for seed, settings in zip(SEEDS, page.locator(".pane details").all(), strict=True):
        settings.locator("summary").click()
        settings.get_by_label("Most tokens").fill("60")
        settings.get_by_label("Seed").fill(str(seed))
        settings.locator("summary").click()
    message = page.get_by_label("Message")
    message.fill(PROMPT)
    message.press("Enter")
    page.get_by_text("tokens/s").nth(1).wait_for(timeout=ANSWER_MS)
    page.locator(".token").filter(has_text=_WORD).nth(4).hover()
    page.get_by_role("status").filter(has_text="%").wait_for()


if __name__ == "__main__":
    main()
