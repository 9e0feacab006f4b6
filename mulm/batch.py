"""A batch: many requests in one uploaded file, answered one by one as a run.

The config of a run of the kind `batch`, and the lines of its file. Light and pure. Invariant: a
file is looked at as a whole before anything is asked; of a line that is no request it is said why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from mulm.config import Frozen
from mulm.data.source_spec import FileContent

WINDOW_S = 86_400.0
"""In which a batch is answered; what is left then has expired."""
MAX_REQUESTS = 50_000
MAX_LINE_BYTES = 4 << 20
_MAX_ID_CHARS = 512

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]


class BatchConfig(Frozen):
    """One batch."""

    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"input_file", "metadata", "key_id"})

    nonce: str
    """Tells it from another batch of the same file: answers may be drawn."""
    endpoint: Endpoint
    input_file: str
    """The id of an uploaded file: JSONL, a request a line."""
    input: FileContent | None = None
    """What `input_file` means; filled in when the run begins."""
    metadata: dict[str, str] = {}
    """A client's notes."""
    key_id: str | None = None
    """Whose limits hold and whose use it is: the key that made it; else the first key."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line of the file."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why a line is no request."""

    line: int
    code: str
    message: str
    param: str | None = None


def read_batch(path: Path, endpoint: str) -> Iterator[BatchRequest | LineProblem]:
    """The requests of a file in their order, and what is wrong with other lines."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                yield LineProblem(number, "too_long_line", "the line is too long")
                return
            if not line.strip():
                continue
            found = _request(line, number, endpoint)
            if isinstance(found, BatchRequest):
                if found.custom_id in seen:
                    found = _problem(number, "duplicate_custom_id", "stands twice", "custom_id")
                elif len(seen) == MAX_REQUESTS:
                    yield _problem(number, "too_many_requests", f"more than {MAX_REQUESTS}")
                    return
                else:
                    seen.add(found.custom_id)
            yield found
    if not seen:
        yield LineProblem(1, "empty_file", "the file has no requests")


def _request(line: bytes, number: int, endpoint: str) -> BatchRequest | LineProblem:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):  # also bytes that are no text
        return _problem(number, "invalid_json_line", "the line is not JSON")
    if not isinstance(value, dict):
        return _problem(number, "invalid_json_line", "the line is not a JSON object")
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_ID_CHARS:
        return _problem(number, "invalid_request", "has a text of its own", "custom_id")
    if value.get("method") != "POST":
        return _problem(number, "invalid_request", "is POST", "method")
    if value.get("url") != endpoint:
        return _problem(number, "mismatched_endpoint", f"is the batch's own: {endpoint}", "url")
    if not isinstance(body, dict):
        return _problem(number, "invalid_request", "is an object", "body")
    if body.get("stream"):
        return _problem(number, "invalid_request", "cannot be streamed", "body.stream")
    return BatchRequest(custom_id, body)


def _problem(line: int, code: str, message: str, param: str | None = None) -> LineProblem:
    told = f"{param}: {message}" if param else message
    return LineProblem(line, code, told, param)
