"""When the workers of a run in step are to stop, so that it goes on with other ones.

Each worker makes a `RegroupWatch`: it looks whether the owner of its machine wants that back, and
whether the run's driver has seen room for more workers. Invariants: the training loop never waits
for the cluster; what cannot be asked changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import ray

from actors.nodes import draining_nodes

_log = logging.getLogger(__name__)

POLL_S = 1.0
_NAMESPACE = b"mulm_regroup"
_TIMEOUT_S = 5.0


class RegroupWatch:
    """Looks every `poll_s` seconds, in a thread of its own, until it is due or closed."""

    def __init__(self, is_due: Callable[[], bool], poll_s: float = POLL_S) -> None:
        self._is_due, self._poll_s = is_due, poll_s
        self._due, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="regroup", daemon=True)
        self._thread.start()

    @property
    def is_due(self) -> bool:
        """Whether this worker is to stop; that stays so."""
        return self._due.is_set()

    def close(self) -> None:
        """Look no more."""
        self._is_over.set()
        self._thread.join(_TIMEOUT_S)

    def _work(self) -> None:
        while not self._is_over.wait(self._poll_s):
            try:
                if self._is_due():
                    self._due.set()
                    return
            except Exception as error:  # noqa: BLE001 a thread's border: the next look may succeed
                _log.warning("the cluster does not answer error=%s", error)


def watch_regroup(run_id: str) -> RegroupWatch:
    """One for this worker, on this machine."""
    here = ray.get_runtime_context().get_node_id()
    return RegroupWatch(lambda: here in draining_nodes() or _is_asked(run_id))


def ask_regroup(run_id: str) -> None:
    """Have the workers of a run stop after the step under way. Raises RayError."""
    _client().internal_kv_put(run_id.encode(), b"1", True, namespace=_NAMESPACE, timeout=_TIMEOUT_S)


def forget_regroup(run_id: str) -> None:
    """Those that begin now were not meant. Raises RayError."""
    _client().internal_kv_del(run_id.encode(), False, namespace=_NAMESPACE, timeout=_TIMEOUT_S)


def _is_asked(run_id: str) -> bool:
    found = _client().internal_kv_get(run_id.encode(), namespace=_NAMESPACE, timeout=_TIMEOUT_S)
    return found is not None


def _client() -> ray._raylet.GcsClient:
    return ray._private.worker.global_worker.gcs_client
