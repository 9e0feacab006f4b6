"""Write one fact from outside the cluster: `write_fact(home, "set_alias", ...)`.

Used by the command line. While the application is up, the ledger's actor writes; else the caller
opens the file. Invariant: the caller never becomes a Ray driver: Ray reads its settings when it
is imported, so a short-lived process of its own (`python -m actors.write_fact`) does the call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from actors.cluster import connect
from actors.cluster_info import ClusterInfo, ray_env
from mulm.errors import DeadlineError, MulmError, NotRunningError, error_classes
from mulm.home import Home
from mulm.ledger import Ledger

_TIMEOUT_S = 90.0
_ROOT = Path(__file__).resolve().parent.parent


def write_fact(home: Home, method: str, *args: Any, **kwargs: Any) -> None:
    """Call a method of `Facts` for its effect; arguments are JSON-compatible.

    Raises:
        MulmError: what the ledger raised.
        DeadlineError: it did not answer in time.
    """
    try:
        info = connect(home)
    except NotRunningError:
        with Ledger(home.ledger) as ledger:
            getattr(ledger, method)(*args, **kwargs)
        return
    _in_process(home, info, json.dumps([method, args, kwargs]))


def _in_process(home: Home, info: ClusterInfo, call: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-m", "actors.write_fact", info.gcs_address],
            input=call,
            env=os.environ | ray_env(home),
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise DeadlineError(f"the ledger did not answer within {_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise _error_in(done.stdout, done.stderr)


def _error_in(stdout: str, stderr: str) -> MulmError:
    classes = {cls.code: cls for cls in error_classes()}
    try:
        told = json.loads(stdout)
        return classes[told["code"]](told["message"], hint=told["hint"])
    except (ValueError, KeyError, TypeError):
        return MulmError("the ledger could not be written", hint=stderr[-500:])


def main(gcs_address: str) -> int:
    """Make the call that stands on standard input; an error of ours goes to standard output."""
    import ray

    from actors.ledger_host import NAMESPACE, connect_facts

    method, args, kwargs = json.load(sys.stdin)
    ray.init(gcs_address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    try:
        getattr(connect_facts(), method)(*args, **kwargs)
    except MulmError as error:
        print(json.dumps({"code": error.code, "message": error.message, "hint": error.hint}))
        return 1
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
