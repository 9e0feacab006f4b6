"""Records: what the ledger's rows are outside of it.

Told and taken by `mulm.facts.Facts`, passed on by everything that shows runs, versions, files,
deployments and feedback. Invariant: they are frozen, and know nothing of where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mulm.manifest import Kind

Phase = Literal[
    "queued", "preparing", "running", "pausing", "paused", "finalizing",
    "succeeded", "failed", "cancelled",
]  # fmt: skip
ENDED: frozenset[Phase] = frozenset({"succeeded", "failed", "cancelled"})
RESTING: frozenset[Phase] = ENDED | {"paused"}
"""Where no process works on a run; what a paused one reads is kept, since it may go on."""


@dataclass(frozen=True, slots=True)
class Version:
    """A numbered version of a name."""

    kind: Kind
    name: str
    number: int
    manifest_id: str
    created_s: float

    @property
    def ref(self) -> str:
        """`name@number`."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A word that points to a version of a name."""

    kind: Kind
    name: str
    alias: str
    number: int

    @property
    def ref(self) -> str:
        """`name@alias`."""
        return f"{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True)
class Pointed:
    """An alias pointed to a version from a moment on."""

    number: int
    set_s: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """One revision of what is to be served under a name; without a `spec` nothing is any more."""

    name: str
    revision: int
    spec: dict[str, Any] | None
    set_s: float
    reason: str
    created_s: float
    """Since when something is served under that name."""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a job; `result` and `error` are set when it has ended."""

    id: str
    kind: str
    config: dict[str, Any]
    phase: Phase
    created_s: float
    updated_s: float
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the run will not go on by itself, and nothing is kept for it."""
        return self.phase in ENDED

    @property
    def is_resting(self) -> bool:
        """Whether the ledger says that no process works on the run."""
        return self.phase in RESTING

    @property
    def texts(self) -> frozenset[str]:
        """All texts in its config, names and ids of what it reads among them."""
        return frozenset(_texts(self.config))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run. `seq` counts from 1 within the run."""

    run_id: str
    seq: int
    time_s: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file that a client has uploaded, or that was made for one; its bytes are a blob."""

    id: str
    name: str
    """What the client calls it: a label, whatever it holds, and never a path of ours."""
    purpose: str
    size_bytes: int
    sha256: str
    created_s: float


Thumb = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What was asked of a model, and what it answered."""

    model: str
    """What clients call it."""
    messages: tuple[dict[str, Any], ...]
    """The conversation until then, in the canonical form of `mulm.chat.Message`."""
    answer: str
    model_id: str | None = None
    """Its weights, with `+` and the adapter's id where one stood beside it, if that is known."""
    answer_id: str | None = None
    """What the answer was called when it was given; tells apart two of the same words."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thought of an answer."""

    id: str
    key_id: str
    answered: Answered
    verdict: Thumb
    comment: str
    created_s: float
    changed_s: float
    """When the verdict was given that holds."""


@dataclass(frozen=True, slots=True)
class FeedbackLine:
    """Feedback as a list shows it, without the conversation."""

    id: str
    key_id: str
    model: str
    model_id: str | None
    answer_id: str | None
    verdict: Thumb
    comment: str
    asked_start: str
    """The first characters of the last thing that the user has said."""
    answer_start: str
    created_s: float
    changed_s: float


ANSWERS_KEPT_S = 86_400.0
"""How long a request with an idempotency key is answered again in the same way."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a request that carries an idempotency key."""

    key_id: str
    """The API key with which it came."""
    key: str
    mark: str
    """Of the one who works on it."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered to a request with an idempotency key, or that one is being worked on."""

    digest: str
    """Of the request: its route and its body."""
    status: int | None
    """None while it is worked on."""
    headers: dict[str, str]
    body: str | None
    """None where it held a secret, and while it is worked on."""
    made: str | None = None
    """The id of what was made while it is worked on."""
    is_mine: bool = False
    """Whether the work is now that of the claim which asked: whoever began it was killed."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to the installation: a run moved, a version came, an alias moved."""

    seq: int
    """Rises in the order in which things happened."""
    time_s: float
    kind: str
    """"run", "version", "alias", "deployment", "file", "key" or "feedback"."""
    subject: str
    """The id or reference of what it happened to."""
    data: dict[str, Any]


def _texts(value: Any) -> Iterator[str]:
    """All texts inside nested JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
