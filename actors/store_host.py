"""The head's store and its runs' checkpoints as an actor, for machines that share no disk with it.

`StoreHost` is a plain class on a home's `Store`; `start_store` wraps it once as the detached actor
"store"; a worker's `Store(root, connect_store())` is then a cache of it, and `actors.courier`
brings back what a worker has made. Invariants: one message is bounded in size; the host keeps
nothing in memory, so it may be restarted at any time; who fetches checks the whole, and so does the
host with what is brought: what breaks on the way is never used.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from actors.ledger_host import NAMESPACE
from actors.placement import on_this_machine
from actors.remote_answer import HINT, answer
from mulm.checkpoint_shelf import CheckpointShelf
from mulm.errors import CorruptError, NotFoundError, NotRunningError
from mulm.home import Home
from mulm.landing import LIMIT_BYTES, Landing
from mulm.manifest import BlobEntry, parse_manifest
from mulm.origin import CHUNK_BYTES
from mulm.store import STORE_URL, Store, open_store

ACTOR_NAME = "store"

_CALL_TIMEOUT_S = 60.0
_N_AT_ONCE = 8
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")


class StoreHost:
    """Reads blobs, manifests and checkpoints for others, and takes theirs."""

    def __init__(self, home: str, limit_bytes: int = LIMIT_BYTES) -> None:
        self._home = Home(Path(home))
        self._store = Store(self._home.store)
        self._landing = Landing(self._home.store / "incoming", limit_bytes)
        self._limit_bytes = limit_bytes
        self._changing = threading.Lock()

    def piece(self, sha256: str, start: int) -> bytes:
        """At most `CHUNK_BYTES` of a blob; fewer only at its end."""
        return self._store.piece(sha256, start, CHUNK_BYTES)

    def manifest(self, manifest_id: str) -> bytes:
        """The stored JSON of a version."""
        return self._store.load(manifest_id).to_bytes()

    def sees(self, mark: str) -> bool:
        """Whether a file that someone has put into their home is in this one: it is the same."""
        return is_mark(mark) and (self._home.root / mark).exists()

    def has_blob(self, sha256: str, size_bytes: int) -> bool:
        """Whether a blob is here and whole."""
        entry = BlobEntry(name="", sha256=sha256, size_bytes=size_bytes)
        try:
            self._store.path(entry)
        except (NotFoundError, CorruptError):
            return False
        return True

    def arrived(self, run_id: str, sha256: str) -> int:
        """How much of a file is here: of a checkpoint of that run, or of a blob if it is empty."""
        return self._landing_of(run_id).arrived(sha256)

    def add(self, run_id: str, sha256: str, size_bytes: int, start: int, piece: bytes) -> int:
        """See `Landing.add`."""
        return self._landing_of(run_id).add(sha256, size_bytes, start, piece)

    def keep_blob(self, sha256: str, size_bytes: int) -> None:
        """Store what has arrived whole. Raises CorruptError."""
        with self._changing:
            if not self.has_blob(sha256, size_bytes):
                target = self._home.store / "blobs" / sha256[:2] / sha256
                self._landing.take(sha256, size_bytes, target, mode=0o444)

    def keep_version(self, manifest_id: str, content: bytes) -> None:
        """Store a version whose blobs are here. Raises CorruptError, NotFoundError."""
        self._store.save(parse_manifest(content, manifest_id))

    def checkpoints(self, run_id: str) -> list[bytes]:
        """The manifests of a run's checkpoints, oldest first."""
        return self._shelf(run_id).manifests()

    def checkpoint_piece(self, run_id: str, step: int, name: str, start: int) -> bytes:
        """At most `CHUNK_BYTES` of a checkpoint's file; fewer only at its end."""
        return self._shelf(run_id).piece(step, name, start, CHUNK_BYTES)

    def keep_checkpoint(
        self, run_id: str, manifest: bytes, keep: int, spared_step: int | None
    ) -> None:
        """See `CheckpointShelf.keep`."""
        with self._changing:
            self._shelf(run_id).keep(manifest, keep, spared_step)

    def _landing_of(self, run_id: str) -> Landing:
        return self._shelf(run_id).landing if run_id else self._landing

    def _shelf(self, run_id: str) -> CheckpointShelf:
        if not _RUN_ID.fullmatch(run_id):  # it comes from another machine
            raise NotFoundError(f"{run_id!r} is no run")
        return CheckpointShelf(self._home.run(run_id), self._limit_bytes)


def is_mark(name: str) -> bool:
    """Whether a name is one that `new_mark` gives."""
    return re.fullmatch(r"\.mark-[0-9a-f]{32}", name) is not None


def new_mark() -> str:
    """The name of a file that nobody else makes."""
    return f".mark-{secrets.token_hex(16)}"


class ClusterOrigin:
    """`Origin` through the actor; safe to share between threads."""

    def __init__(self, handle: Any, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    def fetch(self, sha256: str) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        start, piece = 0, b""
        while start == 0 or len(piece) == CHUNK_BYTES:
            reference = self._handle.piece.remote(sha256, start)
            piece = answer(reference, "store", "piece", self._timeout_s)
            if not piece:
                return
            start += len(piece)
            yield piece

    def manifest(self, manifest_id: str) -> bytes:
        """See `Origin.manifest`."""
        reference = self._handle.manifest.remote(manifest_id)
        content: bytes = answer(reference, "store", "manifest", self._timeout_s)
        return content


def start_store(home: Home) -> None:
    """Start the detached actor on this machine, which has the home; idempotent."""
    ray.remote(StoreHost).options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=5,
        max_concurrency=_N_AT_ONCE,
        scheduling_strategy=on_this_machine(),
    ).remote(str(home.root))


def cluster_store(home: Home) -> Store:
    """This machine's store inside a cluster.

    What it lacks comes from the head, or from `MULM_STORE_URL` if that is set.

    Raises:
        NotRunningError: this process is connected to no cluster of ours.
    """
    if os.environ.get(STORE_URL):
        return open_store(home)
    return Store(home.store, connect_store())


def connect_store() -> ClusterOrigin:
    """The head's store in the cluster that this process is connected to.

    Raises:
        NotRunningError: there is none.
    """
    return ClusterOrigin(store_handle())


def store_handle() -> Any:
    """The actor. Raises as `connect_store` does."""
    if not ray.is_initialized():  # asked for an actor, Ray would start a cluster of its own
        raise NotRunningError("this process is connected to no cluster", hint=HINT)
    try:
        return ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
    except ValueError:
        raise NotRunningError("there is no store in this cluster", hint=HINT) from None
