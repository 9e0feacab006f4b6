"""Errors as HTTP: one status for each code; OpenAI's error object, in our own API a problem.

Used by the ingress, its middleware and the event streams. Invariant: whatever fails, a client gets
`{"error": {"message", "type", "param", "code"}}`, under `/api/` an `application/problem+json` (RFC
9457), and nothing about our insides and no secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from mulm.config import Frozen, keys_at
from mulm.config_words import what_is_wrong
from mulm.errors import MulmError, nearest
from mulm.redaction import redacted
from serve_app.json_size import MAX_GROUPS, MAX_TEXTS, MAX_VALUES
from serve_app.routes import CONTROL_ROOT, routes_of

STATUS_BY_CODE: dict[str, int] = {
    "internal": 500,
    "config_invalid": 400,
    "unknown_name": 400,
    "not_found": 404,
    "data_invalid": 400,
    "schema_mismatch": 400,
    "corrupt": 500,
    "tokenizer_mismatch": 500,
    "port_busy": 500,
    "no_space": 507,
    "conflict": 409,
    "not_running": 503,
    "device_unavailable": 500,
    "job_failed": 500,
    "training_diverged": 500,
    "unauthorized": 401,
    "context_length_exceeded": 400,
    "overloaded": 503,
    "deadline_exceeded": 504,
    "unreachable": 502,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 403,
    "stopped": 503,
}
STATUS_BY_REQUEST_CODE: dict[str, int] = {
    "invalid_json": 400,
    "invalid_value": 400,
    "unknown_parameter": 400,
    "unsupported_parameter": 400,
    "forbidden": 403,
    "idempotency_key_reused": 422,
    "idempotency_in_progress": 409,
    "secret_not_kept": 409,
    "host_not_allowed": 421,
    "model_not_found": 404,
    "not_good_enough": 409,
    "method_not_allowed": 405,
    "precondition_failed": 412,
    "request_timeout": 408,
    "request_too_large": 413,
}
"""Codes that only HTTP has: of requests that are wrong before they reach us."""

HTTP_ERROR = "http_error"
"""The code of a status that has none of its own."""

RETRY_AFTER_S = 1
CLIENT_CODES = {"unauthorized": "invalid_api_key"}
"""Where OpenAI has its own word for our code."""

_TYPES = {"rate_limit_exceeded": "rate_limit_error", "insufficient_quota": "insufficient_quota"}
"""OpenAI's types of errors that are no mistakes in a request."""

_UNION_TAG = re.compile(r"str|.*[\[\]()-].*")
"""Parts of a pydantic location that name a member of a union, not a field."""

_UNKNOWN = "extra_forbidden"
"""What pydantic calls a key that a schema does not have; one that is missing may be mistyped so."""

_SHOWN_CHARS = 64
"""Of a name that a client made up: the nearest one is looked for, and it is told again."""

REFUSALS = frozenset({"unsupported_parameter", "unknown_parameter"})
"""Codes of the schemas' own refusals; their messages continue after the parameter's name."""


def status_of(error: MulmError) -> int:
    """The HTTP status, from the code of the nearest class that has one."""
    status_by_code = STATUS_BY_REQUEST_CODE | STATUS_BY_CODE
    codes = (getattr(cls, "code", "") for cls in type(error).__mro__)
    return next(status_by_code[code] for code in codes if code in status_by_code)


def error_body(error: MulmError) -> dict[str, Any]:
    """OpenAI's error object; the hint is part of the message."""
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    param = error.details.get("param")
    return _body(text, status_of(error), CLIENT_CODES.get(error.code, error.code), param)


def error_response(error: MulmError, scope: Scope) -> JSONResponse:
    """The answer to a request that failed."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 503:
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status == 429:
        wait_s = float(str(error.details.get("retry_after_s", RETRY_AFTER_S)))
        headers["retry-after"] = str(max(1, math.ceil(wait_s)))
        headers["retry-after-ms"] = str(max(1, math.ceil(1000 * wait_s)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if is_control(scope):
        param = error.details.get("param")
        return problem(error.message, status, error.code, scope, error.hint, param, headers)
    return JSONResponse(error_body(error), status, headers)


def too_large_response(max_bytes: int, scope: Scope) -> JSONResponse:
    """The answer to a body that exceeds the limit."""
    message = f"the request's body is larger than {max_bytes} bytes"
    return _refusal(message, "request_too_large", None, scope)


def too_many_values_response(scope: Scope) -> JSONResponse:
    """The answer to a body that would take too long to parse."""
    message = "the request's body holds too many values"
    hint = f"at most {MAX_VALUES}, of which {MAX_TEXTS} texts and {MAX_GROUPS} lists and objects"
    return _refusal(message, "request_too_large", None, scope, hint)


def late_body_response(timeout_s: float, scope: Scope) -> JSONResponse:
    """The answer to a body that does not come."""
    message = f"the request's body was not there within {timeout_s:g} s"
    return _refusal(message, "request_timeout", None, scope)


def no_json_response(scope: Scope) -> JSONResponse:
    """The answer to a body that is no JSON in UTF-8."""
    return _refusal("the body is not valid JSON", "invalid_json", None, scope)


def half_a_character_response(scope: Scope) -> JSONResponse:
    """The answer to a body with text that is none."""
    message = "the body holds half a character (a lone surrogate)"
    return _refusal(message, "invalid_value", None, scope)


async def on_http_error(request: Request, error: Exception) -> Response:
    """For FastAPI: no such route, wrong method; both tell a way out."""
    assert isinstance(error, HTTPException)
    scope, status, detail = request.scope, error.status_code, str(error.detail)
    path, routes = scope["path"], routes_of(request)
    if status == 400:  # all that the framework finds wrong by itself is a body
        return no_json_response(scope)
    if status == 404:
        return _refusal("there is no such route", "not_found", None, scope, routes.way_out(path))
    if status == 405:
        # The framework's own header names the methods of the first route that has the path.
        allowed = ", ".join(routes.methods(path)) or (error.headers or {})["Allow"]
        hint, headers = f"it has {allowed}", {"allow": allowed}
        told = f"this route has no {scope['method']}"
        return _refusal(told, "method_not_allowed", None, scope, hint, headers)
    if is_control(scope):
        return problem(detail, status, HTTP_ERROR, scope, headers=error.headers)
    return JSONResponse(_body(detail, status, HTTP_ERROR, None), status, error.headers)


async def on_mulm_error(request: Request, error: Exception) -> Response:
    """For FastAPI: a route raised one of ours."""
    assert isinstance(error, MulmError)
    return error_response(error, request.scope)


async def on_validation_error(request: Request, error: Exception) -> Response:
    """For FastAPI: a body that does not fit the schema; names its first wrong field.

    A schema may add path parts in its error's context under "param".
    """
    assert isinstance(error, RequestValidationError)
    scope = request.scope
    # Of a union's failures, a refusal tells most, then the one that got furthest, then the one of
    # a member that the value was meant for.
    first = max(error.errors(), key=_how_telling)
    context = first.get("ctx") or {}
    path = [str(part)[:_SHOWN_CHARS] for part in (*first["loc"][1:], *context.get("param", ()))]
    is_field = first["loc"][0] == "body"  # else a header or a word of the address, by its own name
    param = ".".join(part for part in path if not (is_field and _UNION_TAG.fullmatch(part)))
    if first["type"] == "json_invalid":
        return _refusal("the body is not valid JSON", "invalid_json", None, scope)
    if first["type"] in REFUSALS:
        return _refusal(f"{param!r} {first['msg']}", str(first["type"]), param, scope)
    if not param and not _is_no_object(first["type"]):
        return _refusal(what_is_wrong(first), "invalid_value", None, scope)
    if not param:
        hint = "send a JSON object, with Content-Type: application/json"
        return _refusal("the body is not a JSON object", "invalid_json", None, scope, hint)
    if first["type"] == _UNKNOWN:
        hint = nearest(
            path[-1], keys_at(scope["route"].body_field.field_info.annotation, path[:-1])
        )
        return _refusal(f"{param!r} is unknown here", "unknown_parameter", param, scope, hint)
    return _refusal(f"{param}: {what_is_wrong(first)}", "invalid_value", param, scope)


def is_control(scope: Scope) -> bool:
    """Whether a request is of our own API, which tells problems in their own shape."""
    return f"{scope.get('path', '')}/".startswith(CONTROL_ROOT)


class Problem(Frozen):
    """What our own API says of a request that failed (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None
    param: str | None
    request_id: str | None


def problem(
    detail: str,
    status: int,
    code: str,
    scope: Scope,
    hint: str = "",
    param: object = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as RFC 9457 has it, with our code, a hint and the request's id."""
    told = problem_body(detail, status, code, scope, hint, param)
    return JSONResponse(told, status, headers, media_type="application/problem+json")


def problem_body(
    detail: str, status: int, code: str, scope: Scope, hint: str = "", param: object = None
) -> dict[str, Any]:
    """What `problem` answers with."""
    return Problem(
        type=f"urn:mulm:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=redacted(detail),
        code=code,
        hint=redacted(hint) or None,
        param=None if param is None else redacted(str(param)),
        request_id=scope.get("state", {}).get("request_id"),
    ).model_dump()


def refusal_body(message: str, status: int) -> dict[str, Any]:
    """OpenAI's error object for what was wrong before it was a request."""
    return _body(message, status, HTTP_ERROR, None)


def _is_no_object(kind: str) -> bool:
    """Whether a whole body is none, or another thing than an object; else its fields disagree."""
    return kind == "missing" or kind.endswith("_type")


def _how_telling(failure: Mapping[str, Any]) -> tuple[bool, int, bool]:
    kind = failure["type"]
    return kind in REFUSALS or kind == _UNKNOWN, len(failure["loc"]), not kind.endswith("_type")


def _refusal(
    message: str,
    code: str,
    param: str | None,
    scope: Scope,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    status = (STATUS_BY_REQUEST_CODE | STATUS_BY_CODE)[code]
    if is_control(scope):
        return problem(message, status, code, scope, hint, param, headers)
    text = f"{message} ({hint})" if hint else message
    return JSONResponse(_body(text, status, code, param), status, headers)


def _body(message: str, status: int, code: str, param: object) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else _TYPES.get(code, "invalid_request_error")
    shown = redacted(param) if isinstance(param, str) else param
    return {"error": {"message": redacted(message), "type": kind, "param": shown, "code": code}}
