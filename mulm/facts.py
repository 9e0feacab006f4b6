"""Facts: the protocol that reads and writes the ledger.

Called by everything that asks or tells the ledger, in process (`mulm.ledger.Ledger`) or
through the cluster (a typed client with the same methods).
Invariant: nothing here knows where the facts lie.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from mulm.accounts import HOUR_S, AuditRow, Key, KeyLimits, Scope, UsageRow
from mulm.feedback_facts import FeedbackFacts
from mulm.manifest import Kind
from mulm.records import (
    Alias,
    Claim,
    Deployment,
    Event,
    Happening,
    KeptAnswer,
    Phase,
    Pointed,
    Run,
    UserFile,
    Version,
)
from mulm.refs import Ref


class Facts(FeedbackFacts, Protocol):
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

    def remove_versions(
        self,
        gone: Sequence[tuple[Kind, str, int]],
        only_at: int | None = None,
        noted: Sequence[str] = (),
    ) -> None:
        """As `remove_version`: all of these go, or none; `noted` is for `add_audit`, at once.

        Raises ConflictError also where a run, a version or an alias has moved since the number
        `only_at` of `last_happening`.
        """

    def set_alias(
        self, kind: Kind, name: str, alias: str, number: int, only_from: int | None = None
    ) -> None:
        """Point an alias to an existing version.

        Raises NotFoundError, and ConflictError where it does not point to the version `only_from`,
        0 for an alias that is not there yet.
        """

    def remove_alias(self, kind: Kind, name: str, alias: str, only_from: int | None = None) -> None:
        """Let an alias point nowhere; its history stays.

        Raises NotFoundError, and ConflictError where a deployment follows it or it does not point
        to the version `only_from`.
        """

    def alias_history(self, kind: Kind, name: str, alias: str) -> list[Pointed]:
        """Where it has pointed, the newest first; 0 is nowhere."""

    def aliases(self, kind: Kind, name: str) -> dict[str, int]:
        """Alias to version number."""

    def all_aliases(self, kind: Kind | None = None) -> list[Alias]:
        """Every alias, by kind, name and alias."""

    def create_run(
        self, run_id: str, kind: str, config: Mapping[str, Any], claim: Claim | None = None
    ) -> Run:
        """Note a run as queued; a run of that id is returned as it is.

        Raises DeadlineError where the claim has passed to another one.
        """

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
        beside: Mapping[str, int] | None = None,
        claim: Claim | None = None,
    ) -> int | None:
        """Note what is to be served under a name from now on, None for nothing, and why.

        Args:
            name: Of the deployment.
            spec: Its settings.
            reason: In a few words.
            only_from: The revision that it must be at, 0 where nothing may be served.
            beside: All other deployments by name, at the revisions that they must be at.
            claim: Under which this is made.

        Returns:
            The new revision; None, and nothing is noted, where another deployment has come, gone
            or changed.

        Raises NotFoundError where nothing was served and nothing shall be, ConflictError where it
        is not at the revision `only_from`, and DeadlineError where the claim has passed on.
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
        claim: Claim | None = None,
    ) -> Key:
        """Note an API key by the digest of its secret.

        Raises ConflictError, also where another key has the name, and DeadlineError where the claim
        has passed to another one.
        """

    def replace_key(self, key_id: str, digest: str, name: str) -> None:
        """Note a key for everything; every other key of that name is not valid any more.

        Raises ConflictError for a secret that was revoked.
        """

    def change_key(self, key: Key, before: Key | None = None) -> None:
        """Note a key's name, scope, models, end and limits.

        Raises NotFoundError, and ConflictError where another key has the name, or where the key is
        not as it was `before` any more.
        """

    def rotate_key(
        self, key_id: str, digest: str, overlap_s: float, claim: Claim | None = None
    ) -> None:
        """Give a key another secret; those before it end after `overlap_s` seconds.

        Raises NotFoundError, ConflictError for a secret that was revoked, and DeadlineError where
        the claim has passed to another one.
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
        self,
        file_id: str,
        name: str,
        purpose: str,
        size_bytes: int,
        sha256: str,
        claim: Claim | None = None,
    ) -> UserFile:
        """Note a file whose bytes are stored; a file of that id is returned as it is.

        Raises DeadlineError where the claim has passed to another one.
        """

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

    def claim_answer(self, claim: Claim, digest: str, lease_s: float) -> KeptAnswer | None:
        """Claim the work on a request of an API key with an idempotency key.

        Returns None to whoever may begin, for `lease_s` at most. Where the one before was killed
        and has made something, tells what, and that the work is now the asking one's. Else what
        was answered before, or that another one works on it.
        """

    def keep_answer(
        self, claim: Claim, status: int, headers: Mapping[str, str], body: str | None
    ) -> None:
        """Note what was answered under a claim. Raises DeadlineError if that has passed on."""

    def drop_claim(self, claim: Claim) -> None:
        """The work under a claim has failed: another request may begin, or finish what was made."""
