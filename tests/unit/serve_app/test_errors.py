from __future__ import annotations

import re
from pathlib import Path

import pytest

from mulm.errors import AuthError, MulmError, OverloadedError, error_classes
from serve_app.errors import (
    STATUS_BY_CODE,
    STATUS_BY_REQUEST_CODE,
    error_body,
    error_response,
    status_of,
)
from serve_app.service import ModelNotFoundError

SCOPE = {"path": "/v1/models"}


def test_every_error_has_a_status_and_no_other_code_has():
    assert set(STATUS_BY_CODE) == {cls.code for cls in error_classes()}


@pytest.mark.parametrize("cls", error_classes())
def test_every_error_has_openais_body(cls):
    error = cls("what", hint="do this", param="x")
    body = error_body(error)["error"]
    assert body["message"] == "what (do this)"
    assert body["param"] == "x"
    is_ours = status_of(error) >= 500
    expected = {
        "rate_limit_exceeded": "rate_limit_error",
        "insufficient_quota": "insufficient_quota",
    }
    kind = expected.get(body["code"], "invalid_request_error")
    assert body["type"] == ("server_error" if is_ours else kind)


def test_a_special_error_has_the_status_of_its_family():
    error = ModelNotFoundError("no")
    assert (status_of(error), error_body(error)["error"]["code"]) == (404, "model_not_found")


def test_headers_that_tell_clients_what_to_do():
    assert error_response(OverloadedError("x"), SCOPE).headers["retry-after"] == "1"
    assert error_response(AuthError("x"), SCOPE).headers["www-authenticate"] == "Bearer"


def test_codes_of_http_alone_are_frozen_and_on_the_page():
    assert STATUS_BY_REQUEST_CODE == {
        "invalid_json": 400,
        "invalid_value": 400,
        "unknown_parameter": 400,
        "unsupported_parameter": 400,
        "forbidden": 403,
        "host_not_allowed": 421,
        "model_not_found": 404,
        "not_good_enough": 409,
        "method_not_allowed": 405,
        "idempotency_key_reused": 422,
        "idempotency_in_progress": 409,
        "secret_not_kept": 409,
        "precondition_failed": 412,
        "request_timeout": 408,
        "request_too_large": 413,
    }
    page = (Path(__file__).parents[3] / "docs/errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+|its own) \| [^|]+ \|$", page, re.M))
    assert rows.pop("http_error") == "its own"
    assert {code: int(status) for code, status in rows.items()} == STATUS_BY_REQUEST_CODE


def test_the_catalogue_has_every_code_that_any_class_tells(scripted_app):
    def family(cls):
        yield cls
        for child in cls.__subclasses__():
            yield from family(child)

    codes = {cls.code for cls in family(MulmError)}
    assert codes <= STATUS_BY_CODE.keys() | STATUS_BY_REQUEST_CODE.keys()
    page = (Path(__file__).parents[3] / "docs/errors.md").read_text(encoding="utf-8")
    assert {code for code in codes if f"| `{code}` |" not in page} == set()
