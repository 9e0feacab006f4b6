"""A small client of our own HTTP API, for `mulm chat`, `mulm generate` and the demo.

Speaks plain OpenAI-compatible HTTP, so it works against any such server.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from jobs.conversation import ChatOptions
from mulm.chat import Message
from mulm.errors import (
    AuthError,
    ConfigError,
    DeadlineError,
    JobFailedError,
    MulmError,
    NotRunningError,
    error_classes,
)
from serve_app.key_text import FOR_KEY

_CONNECT_TIMEOUT_S = 5.0
_MANY = 100
_READ_TIMEOUT_S = 660.0
"""More than a server takes for an answer at most, unless it is told otherwise."""


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer; the last one has the number of its tokens."""

    text: str
    n_tokens: int | None = None


class ChatClient:
    """Talks to a server with an API key.

    Args:
        base_url: Without `/v1`.
        api_key: Its text.
        verify: Which certificates are trusted.
        for_key: The id of the key for which the first key asks.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        verify: ssl.SSLContext | bool = True,
        for_key: str | None = None,
    ) -> None:
        others = {} if for_key is None else {FOR_KEY: for_key}
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"} | others,
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
            verify=verify,
        )

    def close(self) -> None:
        """Release the connection."""
        self._http.close()

    def models(self) -> list[str]:
        """Names of the models that are served."""
        with _clear_errors():
            reply = self._http.get("/v1/models")
        check(reply)
        return [model["id"] for model in reply.json()["data"]]

    def starting(self) -> list[str]:
        """Names of what starts to be served; none where the server, or the key, tells nothing."""
        with _clear_errors():
            reply = self._http.get("/api/v1/deployments", params={"limit": _MANY})
        try:
            found = [] if reply.is_error else reply.json()["data"]
            return [each["id"] for each in found if each.get("status") == "starting"]
        except (ValueError, KeyError, TypeError, AttributeError):  # not a server of ours
            return []

    def stream(self, options: ChatOptions, messages: Sequence[Message]) -> Iterator[Piece]:
        """The assistant's answer, piece by piece.

        Raises:
            NotRunningError: nobody answers, or the server went away.
            AuthError: the key is refused.
            ContextLengthError: the conversation is too long for the model.
            MulmError: another error, of the class that the server's code names.
        """
        body = {
            "model": options.model,
            "messages": [message.model_dump() for message in messages],
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "seed": options.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with _clear_errors(), self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.is_error:
                reply.read()
            check(reply)
            yield from _pieces(reply.iter_lines())

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """Send a body; whatever the server answers. Raises NotRunningError where nobody does."""
        with _clear_errors():
            return self._http.post(path, json=body)


def _pieces(lines: Iterator[str]) -> Iterator[Piece]:
    for line in lines:
        if line == "data: [DONE]":
            return
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            told = event["error"]
            raise _class_of(told.get("code"), httpx.codes.INTERNAL_SERVER_ERROR)(told["message"])
        text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        yield Piece(text, (event.get("usage") or {}).get("completion_tokens"))
    raise NotRunningError("the answer was cut off", hint="the server went away; ask again")


def check(reply: httpx.Response) -> None:
    """Raise the error that the server tells, of the class that its code names."""
    if not reply.is_error:
        return
    try:
        error = reply.json()["error"]
        code, message = error.get("code"), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        code, message = None, f"the server answered {reply.status_code}"
    raise _class_of(code, reply.status_code)(message)


def _class_of(code: object, status: int) -> type[MulmError]:
    classes = {cls.code: cls for cls in error_classes()}
    if status == httpx.codes.UNAUTHORIZED:
        return AuthError
    fallback = ConfigError if httpx.codes.is_client_error(status) else JobFailedError
    return classes.get(str(code), fallback)


class _clear_errors:  # noqa: N801 - reads as a phrase in a with statement
    """Turn transport errors into ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx.ReadTimeout):
            raise DeadlineError(
                "the server has not answered in time", hint="ask for fewer tokens"
            ) from None
        if isinstance(error, httpx.TransportError):
            raise NotRunningError(
                f"no answer from the server: {error}", hint="is a model served? run `mulm serve`"
            ) from None
