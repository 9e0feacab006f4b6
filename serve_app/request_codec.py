"""Requests, and errors that end them, on their way between two processes: each a line of JSON.

Called by `serve_app.engine_link` and `serve_app.ingress_links`, beside `serve_app.chunk_codec`.
Invariant: what is read equals what was written; reading runs no code, whoever wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from mulm.errors import MulmError
from mulm.messages import GenerateRequest, Grammar, SamplingParams


def encode_request(model_id: str, request: GenerateRequest) -> bytes:
    """One line, without its end."""
    told = _told(request) | {"sampling": _told(request.sampling)}
    if request.sampling.grammar is not None:
        told["sampling"]["grammar"] = _told(request.sampling.grammar)
    return json.dumps([model_id, told], separators=(",", ":")).encode()


def decode_request(line: bytes) -> tuple[str, GenerateRequest]:
    """What `encode_request` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        model_id, told = json.loads(line)
        sampling = told["sampling"]
        grammar = sampling.get("grammar")
        read = {name: _tuples(value) for name, value in sampling.items() if name != "grammar"}
        if grammar is not None:
            read["grammar"] = Grammar(**grammar)
        told |= {"prompt_ids": tuple(told["prompt_ids"]), "sampling": SamplingParams(**read)}
        return str(model_id), GenerateRequest(**told)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no request: {error!r}") from None


def encode_error(request_id: str, error: MulmError) -> bytes:
    """One line, without its end."""
    told = [request_id, type(error).__name__, error.message, error.hint, error.details]
    return json.dumps(told, separators=(",", ":")).encode()


def decode_error(line: bytes) -> tuple[str, MulmError]:
    """The request, and the error that `encode_error` wrote, of the same class."""
    request_id, name, message, hint, details = json.loads(line)
    found = {each.__name__: each for each in _family(MulmError)}
    return request_id, found.get(name, MulmError)(message, hint=hint, **details)


def _told(item: Any) -> dict[str, Any]:
    return {each.name: getattr(item, each.name) for each in fields(item)}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _family(root: type[MulmError]) -> Iterator[type[MulmError]]:
    yield root
    for each in root.__subclasses__():
        yield from _family(each)
