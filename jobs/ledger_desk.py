"""The ledger of this machine, opened for one command while the application is down.

Used by the desks of keys and of feedback, and by `mulm data rm`. Invariant: whoever works here has
a name in the audit log, also where the machine knows none.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mulm.home import Home
from mulm.ledger import Ledger

Note = tuple[str, str, str, str, str, str]
"""What `Facts.add_audit` is told."""


@contextmanager
def open_ledger(home: Home) -> Iterator[Ledger]:
    """The ledger, which nobody else may have open; its folder is made where there is none."""
    with Ledger(home.create().ledger) as facts:
        yield facts


def note_of(command: str, subject: str) -> Note:
    """That a command changes something; belongs into the transaction that does it."""
    return _who(), "", "CLI", command, subject, "done"


def _who() -> str:
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError, ImportError):  # in a container a user may have no name
        return f"user:uid {os.getuid()}"
