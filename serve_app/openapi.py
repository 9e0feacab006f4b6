"""The description of the HTTP API, OpenAPI 3.1: what `/openapi.json` says.

    python -m serve_app.openapi > docs/openapi.json

The framework describes routes and bodies; here each operation gets the errors that it answers in
fact, in the shape of its family. Invariants: the committed file is what the code says; nothing is
answered that is not declared.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from serve_app.auth import OPEN_PATHS
from serve_app.openapi_examples import EXAMPLES
from serve_app.routes import CONTROL_ROOT

Document = dict[str, Any]

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ONCE = "idempotency-key"
_REUSED = "The idempotency key came with another request before."
_FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> None:
    """Have the application describe itself by `document_of`."""
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]


def document_of(app: FastAPI) -> Document:
    """The whole description; made once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, openapi_version="3.1.0", routes=app.routes
        )
        for path, operations in made["paths"].items():
            for method, operation in operations.items():
                _tell_errors(path, operation)
                _show_example(method, path, operation)
        schemas = made["components"]["schemas"]
        for name in _FRAMEWORKS_OWN:
            schemas.pop(name, None)
        schemas["Error"] = _ERROR_SCHEMA
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = made
    return app.openapi_schema


def _tell_errors(path: str, operation: Document) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # the framework's own word for what is a 400 here
    if path in OPEN_PATHS:
        return
    operation["security"] = [{"key": []}]
    if path.startswith(CONTROL_ROOT):
        responses["400"]["content"] = _PROBLEM
        if any(field["name"] == _ONCE for field in operation.get("parameters", ())):
            responses["422"] = {"description": _REUSED, "content": _PROBLEM}
        return
    responses["4XX"] = {"description": "What is wrong with the request.", "content": _ERROR}
    responses["5XX"] = {"description": "What is wrong on our side.", "content": _ERROR}


def _show_example(method: str, path: str, operation: Document) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if (method, path) in EXAMPLES:
            content["example"] = EXAMPLES[method, path]


def main() -> None:
    """Write the description of the whole application."""
    from serve_app.auth import KeyRing
    from serve_app.ingress import make_app
    from serve_app.service import Service

    app = make_app(Service(), KeyRing(dict, b""))
    json.dump(document_of(app), sys.stdout, indent=1, ensure_ascii=False, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
