"""The life of the local Ray cluster: up, connect, down.

Called by `jobs.up`. Imports no Ray: the cluster is a set of processes in a session of their own,
marked in their environment. Invariants: everything listens on loopback, or where its user opened it
to other machines, and asks for the token;
`home.cluster` exists only while the cluster answers; whatever goes wrong during `up`, all that it
started is ended and removed; `down` ends what is ours and nothing else.
"""

from __future__ import annotations

import fcntl
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.cluster_info import ClusterInfo, ray_env, read_info, read_token
from actors.dashboard import Dashboard
from actors.head import ENV_VARIABLES_OF_RAY, Head, fresh_temp_dir
from actors.ports import choose_port
from actors.processes import Pack, exit_status, is_alive, spawn
from mulm.atomic import naming_full_disk, write_atomic
from mulm.errors import ConflictError, DeadlineError, MulmError, NotRunningError
from mulm.home import Home
from mulm.settings import Settings, variable_of
from mulm.store import Store

__all__ = [
    "ENV_VARIABLES_OF_RAY", "ClusterInfo", "connect", "down", "forget_cluster", "ray_env", "up",
]  # fmt: skip

_UP_TIMEOUT_S = 180.0
"""A busy machine took 50 s; an idle one takes about 7."""

_DOWN_PATIENCE_S = 60.0
"""How long `down` waits for an `up` that is under way; nearly all have ended by then."""

_GRACE_S = 2.0
_POLL_S = 0.05
_NEEDED_BYTES = 500_000_000
_LOG_TAIL_LINES = 12


def up(
    home: Home,
    settings: Settings,
    prepare: Callable[[], None] = lambda: None,
    *,
    goes_on: bool = False,
) -> ClusterInfo:
    """Start the cluster and its ledger; returns when both answer.

    Args:
        home: Where everything lies.
        settings: Ports and size.
        prepare: Called before anything starts, when it is certain that nothing runs.
        goes_on: A head that has died comes back: machines that had joined it are known again.

    Raises:
        ConflictError: it is up already, or another process is starting it.
        PortBusyError: a port is taken.
        NoSpaceError: the disk is too full.
        DeadlineError, MulmError: Ray did not start; with the last lines of its log.
    """
    home.create()
    with _only_one(home):
        _require_down(home)
        Store(home.store).require_space(_NEEDED_BYTES)
        _ensure_token(home)
        prepare()
        if not goes_on:
            forget_cluster(home)
        head = _plan(home, settings)
        try:
            head.make_temp_dir()
            _start(head)
            write_atomic(home.cluster, head.info.model_dump_json().encode(), mode=0o600)
        except BaseException:  # Ctrl-C included: nothing may stay behind
            _remove(home, head.info)
            raise
        return head.info


def connect(home: Home) -> ClusterInfo:
    """The running application.

    Raises:
        NotRunningError: it is not up.
    """
    info = read_info(home)
    if info is None or not is_alive(info.pid, info.id):
        raise NotRunningError("the application is not up", hint="run `mulm up` first")
    return info


def down(home: Home) -> bool:
    """End everything of this home's cluster; returns whether there was anything. Idempotent.

    Raises:
        ConflictError: another process is starting it and takes long, or this machine is a member
            of another's.
    """
    if not home.root.exists():
        return False
    _require_no_member(home)
    with _only_one(home, _DOWN_PATIENCE_S):
        info = read_info(home)
        had_processes = _remove(home, info)
    return info is not None or had_processes


def forget_cluster(home: Home) -> None:
    """Remove what the head that has ended knew of its cluster."""
    shutil.rmtree(home.cluster_state, ignore_errors=True)


@contextmanager
def _only_one(home: Home, patience_s: float = 0.0) -> Iterator[None]:
    deadline_s = time.monotonic() + patience_s
    with naming_full_disk(home.root), (home.root / "up.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise ConflictError(
                        "another process is starting or ending the application", hint="wait for it"
                    ) from None
            time.sleep(_POLL_S)
        yield


def _require_down(home: Home) -> None:
    info = read_info(home)
    if info is not None and is_alive(info.pid, info.id):
        raise ConflictError(
            f"the application is up already: {info.dashboard_url}, process {info.pid}",
            hint="use it as it is, or run `mulm down` first",
        )
    _require_no_member(home)
    _remove(home, info)  # what a crash left behind


def _require_no_member(home: Home) -> None:
    """A machine that has joined another's cluster is found by the same home."""
    if home.joined.exists():
        raise ConflictError(
            "this machine has joined another one's application", hint="`mulm leave` first"
        )


def _ensure_token(home: Home) -> None:
    try:
        if len(read_token(home)) >= 32:
            return
    except NotRunningError:
        pass
    write_atomic(home.ray_token, secrets.token_hex(32).encode(), mode=0o600)


def _plan(home: Home, settings: Settings) -> Head:
    loopback = "127.0.0.1"
    http_port = choose_port(settings.http_host, settings.http_port, variable_of("http_port"))
    dashboard_port = choose_port(loopback, settings.dashboard_port, variable_of("dashboard_port"))
    info = ClusterInfo(
        id=secrets.token_hex(6),
        gcs_address=_gcs_address(settings),
        dashboard_url=f"http://{loopback}:{dashboard_port}",
        http_host=settings.http_host,
        http_port=http_port,
        pid=0,
        temp_dir=str(fresh_temp_dir()),
        tls_cert=None if settings.tls_cert is None else str(settings.tls_cert),
    )
    return Head(home, settings, info)


def _gcs_address(settings: Settings) -> str:
    """On loopback any free port; other machines are told one that stays."""
    host = settings.cluster_host
    port = settings.cluster_port if settings.is_open else 0
    return f"{host}:{choose_port(host, port, variable_of('cluster_port'))}"


def _start(head: Head) -> None:
    deadline_s = time.monotonic() + _UP_TIMEOUT_S
    head_pid = spawn(head.command(), head.env(), head.log)
    head.info = head.info.model_copy(update={"pid": head_pid})
    ledger_pid: int | None = spawn(head.hosts_command(_UP_TIMEOUT_S), head.env(), head.log)
    dashboard = Dashboard.of(head.info, head.home)
    has_dashboard = False
    while ledger_pid is not None or not has_dashboard:
        if exit_status(head_pid) is not None:
            raise MulmError("Ray did not start", hint=_log_tail(head.log))
        if ledger_pid is not None and (status := exit_status(ledger_pid)) is not None:
            if status != 0:
                raise MulmError("the ledger did not start", hint=_log_tail(head.log))
            ledger_pid = None
        has_dashboard = has_dashboard or _answers(dashboard)
        if time.monotonic() > deadline_s:
            raise DeadlineError(
                f"Ray did not start within {_UP_TIMEOUT_S:.0f} s", hint=_log_tail(head.log)
            )
        time.sleep(_POLL_S)


def _answers(dashboard: Dashboard) -> bool:
    try:
        dashboard.request("GET", "/api/jobs/")
    except MulmError:
        return False
    return True


def _remove(home: Home, info: ClusterInfo | None) -> bool:
    pack = Pack(home, info.id if info else None)
    temp_dirs = pack.temp_dirs() | ({Path(info.temp_dir)} if info else set())
    had_processes = bool(pack.find())
    pack.end(_GRACE_S)
    for temp_dir in temp_dirs:
        if temp_dir.name.startswith("mulm-"):  # never follow a damaged file into another folder
            shutil.rmtree(temp_dir, ignore_errors=True)
    home.cluster.unlink(missing_ok=True)
    return had_processes


def _log_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "the last lines of its log:\n" + "\n".join(lines[-_LOG_TAIL_LINES:])
