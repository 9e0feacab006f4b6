"""Idempotency keys: a create that is sent twice happens once.

A route that creates takes `once: OnceDependency` and returns `once.answer(lambda: ...)`; one that
reads its body itself takes `once: UploadOnceDependency`, and says what was sent by `sent`.
Invariants: without the header `Idempotency-Key` nothing changes; a key belongs to the API key, the
route and the body that it came with first; only what has succeeded is kept, for a day; a secret is
kept nowhere.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.responses import Response

from mulm.errors import ConflictError
from mulm.facts import Facts
from mulm.records import KeptAnswer
from serve_app.caller import CallerDependency
from serve_app.control_api.control import ControlDependency

REPLAYED = "idempotency-replayed"
LEASE_S = 120.0
"""After that the work of a process that was killed may be begun again."""

_KEPT_HEADERS = ("location", "content-type", "cache-control")

IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$"),
]


class KeyReusedError(ConflictError):
    """An idempotency key came with another request before."""

    code = "idempotency_key_reused"


class InProgressError(ConflictError):
    """The same request is being worked on."""

    code = "idempotency_in_progress"


class SecretShownError(ConflictError):
    """The answer held a secret, which is kept nowhere."""

    code = "secret_not_kept"


@dataclass(frozen=True, slots=True)
class Once:
    """One request to create something."""

    facts: Facts
    key_id: str
    route: str
    key: str | None
    digest: str = ""

    def sent(self, *values: object) -> "Once":
        """With what the request holds, for one that reads its body itself."""
        return replace(self, digest=_digest(self.route, repr(values).encode()))

    def answer(self, work: Callable[[], Response], is_secret: bool = False) -> Response:
        """What `work` answers; what it answered before, if the request was sent before.

        Raises:
            KeyReusedError: the key came with another request before.
            InProgressError: that is being worked on.
            SecretShownError: that was answered, with a secret.
        """
        if self.key is None:
            return work()
        claim = secrets.token_hex(8)
        before = self.facts.claim_answer(self.key_id, self.key, self.digest, claim, LEASE_S)
        if before is not None:
            return self._again(before)
        try:
            made = work()
        except BaseException:
            self.facts.drop_claim(self.key_id, self.key, claim)
            raise
        headers = {name: made.headers[name] for name in _KEPT_HEADERS if name in made.headers}
        body = None if is_secret else bytes(made.body).decode()
        self.facts.keep_answer(self.key_id, self.key, claim, made.status_code, headers, body)
        return made

    def _again(self, before: KeptAnswer) -> Response:
        if before.digest != self.digest:
            raise KeyReusedError(
                "this idempotency key came with another request before",
                hint="a new request needs a new key",
                param="Idempotency-Key",
            )
        if before.status is None:
            raise InProgressError(
                "the same request is being worked on", hint="try again in a moment"
            )
        if before.body is None:
            raise SecretShownError(
                f"this was done: {before.headers.get('location')}; its secret was shown once and"
                " is kept nowhere",
                hint="if the answer was lost, revoke that and create another with a new key",
            )
        return Response(before.body, before.status, before.headers | {REPLAYED: "true"})


def _upload_once(
    request: Request,
    control: ControlDependency,
    caller: CallerDependency,
    idempotency_key: IdempotencyKey = None,
) -> Once:
    route = f"{request.method} {request.url.path}"
    return Once(control.facts, caller.key.id, route, idempotency_key)


UploadOnceDependency = Annotated[Once, Depends(_upload_once)]


async def _once(request: Request, once: UploadOnceDependency) -> Once:
    return replace(once, digest=_digest(once.route, await request.body()))


OnceDependency = Annotated[Once, Depends(_once)]


def _digest(route: str, body: bytes) -> str:
    return hashlib.sha256(route.encode() + b"\0" + body).hexdigest()
