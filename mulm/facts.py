"""Facts: the records of the ledger, and the protocol that reads and writes them.

Called by everything that asks or tells the ledger, in process (`mulm.ledger.Ledger`) or
through the cluster (a typed client with the same methods).
Invariant: nothing here knows where the facts lie; records are frozen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mulm.accounts import HOUR_S, AuditRow, Key, KeyLimits, Scope, UsageRow
from mulm.manifest import Kind
from mulm.refs import Ref

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


ANSWERS_KEPT_S = 86_400.0
"""How long a request with an idempotency key is answered again in the same way."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered to a request with an idempotency key, or that one is being worked on."""

    digest: str
    """Of the request: its route and its body."""
    status: int | None
    """None while it is worked on."""
    headers: dict[str, str]
    body: str | None
    """None where it held a secret."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to the installation: a run moved, a version came, an alias moved."""

    seq: int
    """Rises in the order in which things happened."""
    time_s: float
    kind: str
    """"run", "version", "alias", "deployment", "file" or "key"."""
    subject: str
    """The id or reference of what it happened to."""
    data: dict[str, Any]


class Facts(Protocol):
    """What the ledger can be asked and told, in process or through the cluster."""

    def publish(self, kind: Kind, name: str, manifest_id: str) -> Version:
        """Give a manifest the next number of `name`; a known manifest keeps its number."""

    def resolve(self, kind: Kind, ref: Ref) -> Version:
        """The version that `ref` means. Raises NotFoundError, naming what is near."""

    def versions(self, kind: Kind, name: str | None = None) -> list[Version]:
        """All versions, oldest first."""

    def published_as(self, manifest_id: str) -> list[Version]:
        """All names and numbers of a manifest, oldest first."""

    def remove_version(self, kind: Kind, name: str, number: int) -> None:
        """Take a name from a manifest; the number is never given again.

        Raises NotFoundError, and ConflictError where an alias points to it or it is served.
        """

    def set_alias(
        self, kind: Kind, name: str, alias: str, number: int, only_from: int | None = None
    ) -> None:
        """Point an alias to an existing version.

        Raises NotFoundError, and ConflictError where it does not point to the version `only_from`,
        0 for an alias that is not there yet.
        """

    def alias_history(self, kind: Kind, name: str, alias: str) -> list[Pointed]:
        """Where it has pointed, the newest first."""

    def aliases(self, kind: Kind, name: str) -> dict[str, int]:
        """Alias to version number."""

    def all_aliases(self, kind: Kind | None = None) -> list[Alias]:
        """Every alias, by kind, name and alias."""

    def create_run(self, run_id: str, kind: str, config: Mapping[str, Any]) -> Run:
        """Note a run as queued; a run of that id is returned as it is."""

    def set_config(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Note with what a run goes on, where that may change. Raises NotFoundError."""

    def run(self, run_id: str) -> Run:
        """Raises NotFoundError."""

    def runs(
        self,
        kind: str | None = None,
        phase: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Newest first; those behind the run `after`, at most `limit`. Raises NotFoundError."""

    def set_phase(
        self,
        run_id: str,
        phase: Phase,
        *,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        only_from: Collection[Phase] | None = None,
    ) -> None:
        """Move a run to a phase and append a "phase" event, both or neither.

        Raises NotFoundError, and ConflictError where it is in none of the phases `only_from`.
        """

    def append_events(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Append (kind, data) pairs; returns the last sequence number, durable."""

    def events(
        self, run_id: str, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[Event]:
        """Events with a larger sequence number, in order; of some kinds only, if any are named."""

    def last_event(self, run_id: str, kind: str | None = None) -> Event | None:
        """The newest event of a run, or the newest of one kind."""

    def happenings(self, after: int = 0, limit: int = 1000) -> list[Happening]:
        """What happened behind the one of that number, in order."""

    def last_happening(self) -> int:
        """The number of the newest; 0 where nothing ever happened."""

    def set_deployment(
        self,
        name: str,
        spec: Mapping[str, Any] | None,
        reason: str,
        only_from: int | None = None,
    ) -> int:
        """Note what is to be served under a name from now on, None for nothing, and why.

        Returns:
            The new revision.

        Raises NotFoundError where nothing was served and nothing shall be, and ConflictError where
        it is not at the revision `only_from`, 0 for a name under which nothing is served.
        """

    def deployments(self) -> list[Deployment]:
        """All that is to be served, by name."""

    def deployment(self, name: str) -> Deployment:
        """What is to be served under a name. Raises NotFoundError."""

    def deployment_history(self, name: str) -> list[Deployment]:
        """All revisions of a name, the newest first; none where there never was one."""

    def add_key(
        self,
        key_id: str,
        digest: str,
        name: str,
        scope: Scope = "all",
        models: tuple[str, ...] = (),
        expires_s: float | None = None,
        limits: KeyLimits | None = None,
    ) -> Key:
        """Note an API key by the digest of its secret. Raises ConflictError."""

    def replace_key(self, key_id: str, digest: str, name: str) -> None:
        """Note a key for everything; every other key of that name is not valid any more.

        Raises ConflictError for a secret that was revoked.
        """

    def change_key(self, key: Key) -> None:
        """Note a key's name, scope, models, end and limits. Raises NotFoundError."""

    def rotate_key(self, key_id: str, digest: str, overlap_s: float) -> None:
        """Give a key another secret; those before it end after `overlap_s` seconds.

        Raises NotFoundError, and ConflictError for a secret that was revoked.
        """

    def valid_keys(self) -> list[Key]:
        """All that were not revoked, oldest first; some may have expired."""

    def key(self, key_id: str) -> Key:
        """A key that was not revoked. Raises NotFoundError."""

    def remove_key(self, key_id: str) -> None:
        """Make a key invalid. Raises NotFoundError."""

    def key_secrets(self) -> dict[str, Key]:
        """Digest to key of every secret; of one that was rotated away with its own end."""

    def is_retired(self, digest: str) -> bool:
        """Whether a secret was rotated away or revoked."""

    def add_usage(self, writer: str, seq: int, rows: Sequence[UsageRow]) -> dict[str, int]:
        """Count what was used; a writer's batch of a number, or a later one, counts once.

        Returns the tokens of every key in all.
        """

    def usage(
        self,
        key_id: str | None = None,
        model: str | None = None,
        from_s: int = 0,
        to_s: int | None = None,
        bucket_s: int = HOUR_S,
    ) -> list[UsageRow]:
        """What was used, by stretches of `bucket_s`, a multiple of an hour, in order of time.

        They count whole, from the one that holds `from_s` to the last that begins before `to_s`.
        """

    def add_audit(
        self, who: str, request_id: str, method: str, route: str, subject: str, outcome: str
    ) -> None:
        """Note that somebody asked for a change; for ever."""

    def audit(
        self, who: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[AuditRow]:
        """The newest notes first; of one who asked, and of those before a number."""

    def add_file(
        self, file_id: str, name: str, purpose: str, size_bytes: int, sha256: str
    ) -> UserFile:
        """Note a file whose bytes are stored; a file of that id is returned as it is."""

    def file(self, file_id: str) -> UserFile:
        """Raises NotFoundError."""

    def files(
        self,
        purpose: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> list[UserFile]:
        """Those behind the file `after`, at most `limit`. Raises NotFoundError."""

    def has_file(self, name: str, sha256: str) -> bool:
        """Whether there is a file of that name with those bytes."""

    def remove_file(self, file_id: str) -> None:
        """Forget a file. Raises NotFoundError."""

    def claim_answer(
        self, key_id: str, key: str, digest: str, claim: str, lease_s: float
    ) -> KeptAnswer | None:
        """Claim the work on a request of an API key with an idempotency key.

        Returns None to whoever may begin, with `claim` as its mark, for `lease_s` at most; else
        what was answered before, or that another one works on it.
        """

    def keep_answer(
        self,
        key_id: str,
        key: str,
        claim: str,
        status: int,
        headers: Mapping[str, str],
        body: str | None,
    ) -> None:
        """Note what was answered under a claim; nothing if that has ended."""

    def drop_claim(self, key_id: str, key: str, claim: str) -> None:
        """The work under a claim came to nothing: another request may begin."""


def _texts(value: Any) -> Iterator[str]:
    """All texts inside nested JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
