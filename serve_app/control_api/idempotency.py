"""Idempotency keys: a create that is sent twice happens once, whatever is killed in between.

A route that creates takes `once: OnceDependency` and returns `once.answer(make, again)`; one that
reads its body itself takes `once: UploadOnceDependency`, and says what was sent by `sent`. `make`
passes its claim to the ledger, which notes what is made under it in the same transaction; so where
the process dies behind that, the next request with the key finds it, and `again` finishes it.
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
from pydantic import Field
from starlette.responses import Response

from mulm.errors import ConflictError, NotFoundError
from mulm.facts import Facts
from mulm.field_words import Told
from mulm.records import Claim, KeptAnswer
from serve_app.caller import CallerDependency
from serve_app.control_api.control import ControlDependency

REPLAYED = "idempotency-replayed"
LEASE_S = 120.0
"""After that the work of a process that was killed is taken over."""

_KEPT_HEADERS = ("location", "content-type", "cache-control")

_Visible = Annotated[
    str,
    Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$"),
    Told("be 1 to 255 visible ASCII characters without spaces"),
]
IdempotencyKey = Annotated[_Visible | None, Header()]


class KeyReusedError(ConflictError):
    """An idempotency key came with another request before."""

    code = "idempotency_key_reused"


class InProgressError(ConflictError):
    """The same request is being worked on."""

    code = "idempotency_in_progress"


class SecretShownError(ConflictError):
    """The answer held a secret, which is kept nowhere."""

    code = "secret_not_kept"


Make = Callable[[Claim | None], Response]
"""Does the work and answers; what it makes it makes under the claim, if there is one."""
Again = Callable[[str, Claim], Response]
"""Answers for what was made, by its id, and does what is left to do."""


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

    def answer(self, make: Make, again: Again, is_secret: bool = False) -> Response:
        """What `make` answers; what it answered before, if the request was sent before.

        Raises:
            KeyReusedError: the key came with another request before.
            InProgressError: that is being worked on.
            SecretShownError: that was answered, with a secret.
            ConflictError: what that made is there no more.
            DeadlineError: this took so long that another request has taken over.
        """
        if self.key is None:
            return make(None)
        claim = Claim(self.key_id, self.key, secrets.token_hex(8))
        before = self.facts.claim_answer(claim, self.digest, LEASE_S)
        if before is not None and not before.is_mine:
            return self._replayed(before)
        try:
            made = make(claim) if before is None else _finished(again, before, claim)
        except BaseException:
            self.facts.drop_claim(claim)
            raise
        headers = {name: made.headers[name] for name in _KEPT_HEADERS if name in made.headers}
        body = None if is_secret else bytes(made.body).decode()
        self.facts.keep_answer(claim, made.status_code, headers, body)
        return made

    def _replayed(self, before: KeptAnswer) -> Response:
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


def _finished(again: Again, before: KeptAnswer, claim: Claim) -> Response:
    assert before.made is not None, "work is taken over where something was made"
    try:
        return again(before.made, claim)
    except NotFoundError:
        raise ConflictError(
            f"this was done before: {before.made}; it is there no more",
            hint="a new request needs a new key",
        ) from None


async def _upload_once(
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
