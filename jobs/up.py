"""Start and stop the whole application: the cluster, its ledger, the first API key.

Called by `mulm up`, `mulm down` and the demo. Imports no Ray. Invariant: while the cluster is
down the caller owns the ledger, so the key and lost runs are seen to before Ray starts.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from actors import cluster
from actors.cluster_info import ClusterInfo, read_token
from actors.job_client import JobClient, reconcile
from jobs.keeper import start_keeper
from mulm.config import parse_config
from mulm.errors import ConfigError, MulmError, NotRunningError
from mulm.home import Home
from mulm.join_token import join_token
from mulm.ledger import Ledger
from mulm.run_lock import is_held
from mulm.settings import Settings
from serve_app.deploy import deploy_ingress
from serve_app.keys import ensure_first_key

_log = logging.getLogger(__name__)

_JOBS_GRACE_S = 20.0


def start(
    home: Home, settings: Settings, returned_s: Sequence[float] = (), *, goes_on: bool = False
) -> ClusterInfo:
    """Bring the application up; everything that `actors.cluster.up` raises.

    Runs that were under way when the last cluster ended are noted as failed, with a hint: the
    same command resumes them. What was deployed is served again. Where HTTP cannot be answered,
    nothing stays up. A keeper looks after it from then on (`jobs.keeper`), and is told when the
    application was brought back before. Where it `goes_on`, machines that had joined are known.
    """
    info = cluster.up(home, settings, prepare=lambda: _prepare(home), goes_on=goes_on)
    try:
        deploy_ingress(info, home, settings.ingress_replicas)
        start_keeper(home, settings, info, returned_s)
    except BaseException:  # Ctrl-C included
        cluster.down(home)
        raise
    return info


def lan_settings(settings: Settings, address: str) -> Settings:
    """The settings with the cluster open to other machines, at `address` or "auto".

    Raises:
        ConfigError: there is no such address, or none is found.
    """
    if address == "auto":
        address = found_address()
    return parse_config(Settings, settings.model_dump() | {"cluster_host": address})


def found_address() -> str:
    """This machine's address on the network that leads out of it.

    Raises:
        ConfigError: there is no such network.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of nobody's; nothing is sent
        except OSError:
            raise ConfigError(
                "this machine is on no network", hint="name its address: `mulm up --lan ADDRESS`"
            ) from None
        address: str = probe.getsockname()[0]
    return address


def join_line(home: Home, info: ClusterInfo) -> str:
    """What another machine's user pastes."""
    return f"mulm join {info.gcs_address} --token {join_token(read_token(home))}"


def stop(home: Home, jobs_grace_s: float = _JOBS_GRACE_S) -> bool:
    """Take the application down; returns whether it was up. Idempotent.

    Jobs are asked first and have `jobs_grace_s` seconds to write a checkpoint.
    """
    try:
        _stop_jobs(home, jobs_grace_s)
    except NotRunningError:
        pass  # what is left is cleared away below
    except MulmError as error:
        _log.warning("jobs were not asked to stop: %s", error.message)
    was_up = cluster.down(home)
    cluster.forget_cluster(home)
    return was_up


def _stop_jobs(home: Home, grace_s: float) -> None:
    left = JobClient.of(cluster.connect(home), home).stop_all(grace_s)
    if left:
        _log.warning(
            "%s: ended before it was done; `mulm runs resume` goes on from what is kept",
            ", ".join(left),
        )


def _prepare(home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ensure_first_key(home, ledger)
        for run in ledger.runs():
            if not is_held(home, run.id):  # the command line works without the application too
                reconcile(ledger, run, None)
