"""The desk of runs of a server elsewhere: what `mulm runs` asks, answered over HTTP.

Made for the verbs with `--url`. Invariant: they print the same for a run here and elsewhere; what
HTTP does not tell (folders, checkpoints on the disk) is told as absent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from typing import cast

from actors.run_desk import END_TIMEOUT_S, RunDesk
from jobs.remote import Remote
from jobs.remote_runs import RemoteRuns
from mulm.errors import NotFoundError
from mulm.facts import Facts
from mulm.manifest import Kind
from mulm.records import Event, Run, Version
from mulm.refs import Ref
from mulm.runs.standing import Standing, noted_error

_RUN_ID = re.compile(r"run_[0-9a-f]{12,}")
_BATCH = 1000


class RemoteFacts:
    """The part of `Facts` that the control API tells."""

    def __init__(self, runs: RemoteRuns) -> None:
        self._runs = runs

    def run(self, run_id: str) -> Run:
        """See `Facts.run`."""
        return self._runs.one(run_id).run

    def events(
        self, run_id: str, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[Event]:
        """See `Facts.events`."""
        return self._runs.events(run_id, after, limit, kinds)

    def last_event(self, run_id: str, kind: str | None = None) -> Event | None:
        """See `Facts.last_event`; found by paging, since HTTP has no other way."""
        last, kinds = None, () if kind is None else (kind,)
        while batch := self.events(run_id, last.seq if last else 0, _BATCH, kinds):
            last = batch[-1]
            if len(batch) < _BATCH:
                break
        return last

    def resolve(self, kind: Kind, ref: Ref) -> Version:
        """See `Facts.resolve`."""
        found = self._runs.remote.get(f"{kind}s/{ref}")
        created_s = float(found["created_at"])
        return Version(kind, found["name"], found["version"], found["manifest_id"], created_s)


class RemoteDesk(RunDesk):
    """The runs of one server, with the methods of `RunDesk`.

    Args:
        remote: The server.
        sleep: Waits some seconds.
    """

    def __init__(self, remote: Remote, sleep: Callable[[float], None] = time.sleep) -> None:
        self.runs, self._sleep = RemoteRuns(remote), sleep
        self.facts = cast(Facts, RemoteFacts(self.runs))  # what the verbs read of it

    def all(self, kind: str | None = None) -> list[Standing]:
        """See `RunDesk.all`."""
        return self.runs.all(kind)

    def one(self, run_id: str) -> Standing:
        """See `RunDesk.one`."""
        return self.runs.one(run_id)

    def find(self, text: str) -> Standing:
        """See `RunDesk.find`; a whole id is asked for by itself."""
        if _RUN_ID.fullmatch(text):
            try:
                return self.one(text)
            except NotFoundError:
                pass  # then what it begins, and what is near
        return super().find(text)

    def ask_to_pause(self, run_id: str) -> Standing:
        """See `RunDesk.ask_to_pause`."""
        return self.runs.ask(run_id, "pause")

    def ask_to_cancel(self, run_id: str, timeout_s: float = END_TIMEOUT_S) -> Standing:
        """See `RunDesk.ask_to_cancel`; the server does not wait."""
        del timeout_s
        return self.runs.ask(run_id, "cancel")

    def _ended(self, run_id: str, timeout_s: float) -> Standing:
        found = self._wait(run_id, timeout_s)
        if found.run.phase == "failed":
            raise noted_error(found.run)
        return found

    def log_tail(self, run_id: str, n_lines: int) -> str:
        """See `RunDesk.log_tail`."""
        return self.runs.printed(run_id, n_lines)
