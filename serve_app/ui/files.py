"""The files of the page, by name: what `/` is made of, and nothing else.

Read by `serve_app.ui.page`, which serves them, and by `serve_app.auth`, since they open without a
key: they hold no data. Invariant: a file that is not named here is not served, whatever lies in the
folder.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "static"
INDEX = "index.html"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES = (
    "aliases.js",
    "api.js",
    "app.js",
    "audit.js",
    "bars.js",
    "chart.js",
    "chat.js",
    "chat_pane.js",
    "compare.js",
    "connection.js",
    "datasets.js",
    "deployments.js",
    "dom.js",
    "evaluations.js",
    "feed.js",
    "feedback.js",
    "fork.js",
    "icon.svg",
    "key_fields.js",
    "keys.js",
    "list.js",
    "promotion.js",
    "run.js",
    "runs.js",
    "session.js",
    "signin.js",
    "stream.js",
    "style.css",
    "thumbs.js",
    "tokens.js",
    "usage.js",
    "versions.js",
    "words.js",
)
"""Beside the index; each is at `/ui/<name>`."""

PATHS = frozenset({"/", *(f"/ui/{name}" for name in FILES)})
"""Where the page answers."""


def media_type(name: str) -> str:
    """What a browser is told that a file is."""
    return _TYPES[name.rpartition(".")[2]]
