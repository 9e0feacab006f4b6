"""SIGINT and SIGTERM while a job's process only starts: it says so in one line, and is gone.

Called before anything else by the modules that run as jobs, so this one imports only what Python
has loaded by then. Invariant: nothing has begun, so nothing has to be ended; from the beginning of
the work on, signals are those of `jobs.signals`.
"""

from __future__ import annotations

import os
import signal
import sys


def leave_on_signals() -> None:
    """Let a signal end this process.

    Not by an exception: that would come out of whatever is being imported, as a traceback.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)


def leave(*_: object) -> None:
    """The handler."""
    try:
        os.write(sys.stderr.fileno(), b"error [stopped]: cancelled before it began\n")
    finally:
        os._exit(128 + signal.SIGINT)  # as after Ctrl-C, see `jobs.exit_codes`
