from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from serve_app.auth import OPEN_PATHS
from serve_app.errors import STATUS_BY_CODE, STATUS_BY_REQUEST_CODE
from serve_app.openapi import document_of, main
from serve_app.openapi_examples import EXAMPLES

PAGE = Path(__file__).parents[3] / "docs/openapi.json"


def test_the_committed_description_is_that_of_the_code(capsys):
    main()
    text = capsys.readouterr().out
    assert PAGE.read_text(encoding="utf-8") == text, (
        "python -m serve_app.openapi > docs/openapi.json"
    )


def test_every_operation_declares_its_errors_and_every_schema_is_one(scripted_app):
    document = document_of(scripted_app)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            declared = set(operation["responses"])
            fields = [field["name"] for field in operation.get("parameters", ())]
            is_once = path.startswith("/api/") and "idempotency-key" in fields
            assert ("422" in declared) == is_once
            if path.startswith("/api/"):
                assert declared >= {"400", "401", "403", "404", "409", "503"}
            elif path not in OPEN_PATHS:
                assert declared >= {"4XX", "5XX"}
    assert "HTTPValidationError" not in json.dumps(document)


def test_streams_are_declared_where_there_are_some(scripted_app):
    document = document_of(scripted_app)
    streamed = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }
    assert streamed == {
        "/v1/completions", "/v1/chat/completions", "/v1/responses", "/api/v1/events",
        "/api/v1/runs/{run_id}/events",
    }  # fmt: skip


def test_every_status_that_the_control_api_may_answer_is_declared(scripted_app):
    statuses = {str(status) for status in (STATUS_BY_CODE | STATUS_BY_REQUEST_CODE).values()}
    only_somewhere = {"412", "422"}  # preconditions, and idempotency keys that came before
    for path, operations in document_of(scripted_app)["paths"].items():
        if path.startswith("/api/"):
            for method, operation in operations.items():
                declared = set(operation["responses"])
                assert statuses - declared <= only_somewhere, (method, path)
                for status in declared & statuses:
                    assert "application/problem+json" in operation["responses"][status]["content"]


def test_every_body_has_an_example_that_its_schema_takes(scripted_app):
    document = document_of(scripted_app)
    bodies = {
        (method, path): operation["requestBody"]["content"]["application/json"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    assert set(bodies) == set(EXAMPLES)
    for body in bodies.values():
        schema = body["schema"] | {"components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(body["example"])
