"""`GET /` and `/ui/*`: the page, a client of this HTTP API like any other, from static files.

The files hold no data and open without a key; what they show they ask for with the key of whoever
looks at them. Invariant: the page runs no script but its own, is framed by nobody, and speaks to
nobody but the server that it came from.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve_app.ui.files import FILES, FOLDER, INDEX, media_type

router = APIRouter(include_in_schema=False)

CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",  # a browser that knows it refuses every innerHTML
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",  # kept, and asked about: a new version is seen at once
}

IfNoneMatch = Annotated[str | None, Header(max_length=256)]


@router.get("/")
def index(if_none_match: IfNoneMatch = None) -> Response:
    """The page itself."""
    return _file(INDEX, if_none_match)


@router.get("/ui/{name}")
def file(name: str, if_none_match: IfNoneMatch = None) -> Response:
    """One of its files."""
    if name not in FILES:
        raise HTTPException(404)
    return _file(name, if_none_match)


def _file(name: str, if_none_match: str | None) -> Response:
    """A file, or 304 where the browser has this very content."""
    content = (FOLDER / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"etag": tag}
    if if_none_match is not None and tag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type(name), headers=headers)
