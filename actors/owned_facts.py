"""The ledger for a caller outside the cluster who has something to write.

Used by the command line. While the application is up, the actor writes; else the caller opens
the file. Invariant: afterwards the process is no Ray driver any more and has its own signals.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from actors.cluster import connect
from actors.cluster_info import ClusterInfo, ray_env
from mulm.errors import NotRunningError
from mulm.facts import Facts
from mulm.home import Home
from mulm.ledger import Ledger


@contextmanager
def owned_facts(home: Home) -> Iterator[Facts]:
    """The facts of an installation, to read and write."""
    try:
        info = connect(home)
    except NotRunningError:
        with Ledger(home.ledger) as ledger:
            yield ledger
        return
    with _driver(home, info) as facts:
        yield facts


@contextmanager
def _driver(home: Home, info: ClusterInfo) -> Iterator[Facts]:
    os.environ.update(ray_env(home))  # Ray reads it when it is imported
    import ray

    from actors.ledger_host import NAMESPACE, connect_facts

    before = signal.getsignal(signal.SIGTERM)
    ray.init(info.gcs_address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    try:
        yield connect_facts()
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)
