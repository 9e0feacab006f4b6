from __future__ import annotations

import asyncio
import re

import pytest

from serve_app.ui.files import FILES, FOLDER, INDEX, PATHS, media_type

MOST_BYTES = 128 << 10
SCRIPTS = sorted(FOLDER.glob("*.js"))
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|DOMParser"
    r"|srcdoc|createContextualFragment|setHTML|import\(|https?://(?!www\.w3\.org)"
)


def call(app, raw, path: str, method: str = "GET", **headers: str):
    async def once():
        async with raw(app) as client:
            client.headers.pop("authorization")
            return await client.request(method, path, headers=headers)

    return asyncio.run(once())


def test_the_page_is_what_is_named_and_small():
    assert {path.name for path in FOLDER.iterdir()} == {INDEX, *FILES}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
    assert list(FILES) == sorted(FILES)


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_file_opens_without_a_key_under_a_strict_policy(scripted_app, raw, path):
    reply = call(scripted_app, raw, path)
    name = path.removeprefix("/ui/") if path != "/" else INDEX
    assert reply.status_code == 200
    assert reply.content == (FOLDER / name).read_bytes()
    assert reply.headers["content-type"] == media_type(name)
    policy = dict(
        rule.split(" ", 1) for rule in reply.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    for header, value in {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-resource-policy": "same-origin",
    }.items():
        assert reply.headers[header] == value


def test_a_file_is_sent_once_and_then_asked_about(scripted_app, raw):
    first = call(scripted_app, raw, "/ui/app.js")
    tag = first.headers["etag"]
    assert "no-cache" in first.headers["cache-control"]
    for sent in (tag, f'"other", W/{tag}'):
        again = call(scripted_app, raw, "/ui/app.js", **{"if-none-match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    other = call(scripted_app, raw, "/ui/style.css", **{"if-none-match": tag})
    assert other.status_code == 200


@pytest.mark.parametrize("path", ["/ui/../page.py", "/ui/%2e%2e/page.py", "/ui/page.py", "/ui/"])
def test_nothing_else_is_served(scripted_app, raw, path):
    assert call(scripted_app, raw, path).status_code == 401
    with_key = {"authorization": "Bearer mulm_sk_" + "k" * 43}
    assert call(scripted_app, raw, path, **with_key).status_code == 404


def test_files_are_for_reading(scripted_app, raw):
    assert call(scripted_app, raw, "/", "POST").status_code == 405


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_a_head_and_no_way_from_text_to_markup(script):
    text = script.read_text(encoding="utf-8")
    assert text.startswith("// ")
    assert SINKS.findall(text) == []
    assert len(text.splitlines()) < 300


def test_the_index_holds_no_script_and_no_style_of_its_own():
    text = (FOLDER / INDEX).read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", text)
