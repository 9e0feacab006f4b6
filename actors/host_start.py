"""Starts the ledger and the store in a new cluster: `python -m actors.host_start`.

Run by `actors.cluster.up` beside Ray's own start, in a process of its own, so that importing Ray
costs no extra time and the caller never becomes a Ray driver. Ends with 0 when the ledger answers.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from actors.ledger_host import NAMESPACE, start_ledger
from actors.store_host import start_store
from actors.versions import publish
from mulm.errors import DeadlineError
from mulm.home import Home

_POLL_S = 0.05
_ATTEMPTS = 20


def main(gcs_address: str, temp_dir: str, root: str, timeout_s: str) -> int:
    """Wait for the raylet, then start the actors of a home; returns the exit code."""
    import ray

    _wait_for(Path(temp_dir) / "session_latest" / "sockets" / "raylet", float(timeout_s))
    for attempt in range(_ATTEMPTS):
        try:
            ray.init(gcs_address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
            break
        except (ConnectionError, RuntimeError, ValueError):  # not registered yet
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_POLL_S * attempt)
    home = Home(Path(root))
    _end_former(float(timeout_s))
    start_ledger(home.ledger)
    start_store(home)
    publish(gcs_address)
    ray.shutdown()
    return 0


def _end_former(timeout_s: float) -> None:
    """End our actors of a head that died: its cluster knows them, and they would pass for new ones.

    Raises:
        DeadlineError: the cluster still names them.
    """
    import ray

    end_s = time.monotonic() + timeout_s
    while names := ray.util.list_named_actors():
        for name in names:
            with suppress(ValueError):  # it has just gone
                ray.kill(ray.get_actor(name), no_restart=True)
        if time.monotonic() > end_s:
            raise DeadlineError(f"actors of a former head do not end: {', '.join(names)}")
        time.sleep(_POLL_S)


def _wait_for(path: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not path.exists() and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
