"""The head's store as an actor, for machines that share no disk with it.

`StoreHost` is a plain class that reads from a `Store`; `start_store` wraps it once as the detached
actor "store"; a worker's `Store(root, connect_store())` is then a cache of it. Invariants: one
answer is bounded in size; the host keeps nothing, so it may be restarted at any time; who fetches
checks the whole, so what breaks on the way is never used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.ledger_host import NAMESPACE
from actors.remote_answer import HINT, answer
from mulm.errors import NotRunningError
from mulm.home import Home
from mulm.origin import CHUNK_BYTES
from mulm.store import STORE_URL, Store, open_store

ACTOR_NAME = "store"

_CALL_TIMEOUT_S = 60.0
_N_AT_ONCE = 8


class StoreHost:
    """Reads blobs and manifests for others."""

    def __init__(self, root: str) -> None:
        self._store = Store(Path(root))

    def piece(self, sha256: str, start: int) -> bytes:
        """At most `CHUNK_BYTES` of a blob; fewer only at its end."""
        return self._store.piece(sha256, start, CHUNK_BYTES)

    def manifest(self, manifest_id: str) -> bytes:
        """The stored JSON of a version."""
        return self._store.load(manifest_id).to_bytes()


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


def start_store(root: Path) -> None:
    """Start the detached actor on this machine, which has the store; idempotent."""
    node_id = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    ray.remote(StoreHost).options(
        name=ACTOR_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=5,
        max_concurrency=_N_AT_ONCE,
        scheduling_strategy=strategy,
    ).remote(str(root))


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
    if not ray.is_initialized():  # asked for an actor, Ray would start a cluster of its own
        raise NotRunningError("this process is connected to no cluster", hint=HINT)
    try:
        return ClusterOrigin(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE))
    except ValueError:
        raise NotRunningError("there is no store in this cluster", hint=HINT) from None
