"""Who uses the service: keys with what they may do, what they have used and changed.

Records of the ledger, told by `mulm.facts.Facts` and checked by the ingress. Invariant: nothing in
them would let somebody in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from mulm.config import Frozen

Scope = Literal["all", "inference"]
"""What a key lets somebody do: everything, or have models answer."""

Amount = Annotated[int, Field(ge=1, lt=2**53)]


class Rates(Frozen):
    """How much at a time; what is not given has no limit."""

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None
    """Of prompts and answers together."""
    max_concurrent: Amount | None = None
    """Requests to models that are answered at the same time."""


NO_RATES = Rates()


class KeyLimits(Rates):
    """What one key may use."""

    token_quota: Amount | None = None
    """Tokens in all, from the key's first day on."""


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without anything that would let somebody in."""

    id: str
    name: str
    created_s: float
    scope: Scope
    models: tuple[str, ...] = ()
    """What clients call the models that it may ask; all of them where none is named."""
    expires_s: float | None = None
    """When it ends, in seconds of Unix time."""
    limits: KeyLimits = NO_LIMITS

    def may_ask(self, model: str) -> bool:
        """Whether it may have that model answer."""
        return not self.models or model in self.models


HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a key has used of a model in a stretch of time."""

    key_id: str
    model: str
    """What clients call it."""
    start_s: int
    """When the stretch begins, in seconds of Unix time."""
    requests: int
    """Those that the model has begun to answer."""
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Somebody asked for a change."""

    seq: int
    time_s: float
    who: str
    """The id of a key, or `user:NAME` for somebody on the machine itself."""
    request_id: str
    method: str
    """Of HTTP, or `CLI`."""
    route: str
    subject: str
    """What was changed, or was to be."""
    outcome: str
    """A status of HTTP; `done` on the machine itself; `left` where nobody waited for it."""
