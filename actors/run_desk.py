"""The desk of runs: how each one stands, and the ways to pause and to cancel one.

Used by `mulm runs`; whatever else shows or stops runs has the same functions here. With the
application up, a run is a Ray job; without it, a process that holds the run's lock. Invariants: a
request is a phase in the ledger, set only where the run is in a phase that allows it, so that no
end is overwritten and nothing is asked twice; waiting has a deadline, and what was asked still
happens after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actors.cluster import connect
from actors.job_client import Attempt, JobClient, attempts_by_run
from actors.write_fact import write_fact
from mulm.config import read_mapping
from mulm.errors import DeadlineError, MulmError, NotFoundError, NotRunningError, StoppedError
from mulm.facts import Facts
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Phase, Run
from mulm.run_lock import is_held
from mulm.runs.find import find_run
from mulm.runs.standing import Standing, noted_error, standing
from mulm.runs.transitions import UNDER_WAY, UNENDED, may_cancel, may_pause

END_TIMEOUT_S = 75.0
"""A worker has 45 s for its last checkpoint, and Ray kills a job 60 s after it was asked."""
_POLL_S = 0.3


class RunDesk:
    """The runs of one installation.

    Args:
        home: Where locks and run folders lie.
        facts: For reading.
        jobs: Of the running application; None without one.
        write: Calls a method of `Facts` for its effect.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        home: Home,
        facts: Facts,
        jobs: JobClient | None,
        write: Callable[..., None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._home, self._jobs, self._write, self._sleep = home, jobs, write, sleep
        self.facts = facts

    def all(self, kind: str | None = None) -> list[Standing]:
        """All runs, newest first, those that are only submitted as jobs included."""
        jobs = self._attempts_if_known()
        own = attempts_by_run(jobs.values()) if jobs else {}
        runs = self.facts.runs()
        known = {run.id for run in runs}
        runs += [self._unborn(k, job) for k, job in own.items() if k not in known and _makes(job)]
        runs.sort(key=lambda run: -run.created_s)
        return [self._stands(run, own, jobs) for run in runs if kind in (None, run.kind)]

    def one(self, run_id: str) -> Standing:
        """How a run stands now.

        Raises:
            NotFoundError: there is none of that id.
            DeadlineError: it may be one that is only submitted, which nobody can tell just now.
        """
        return self._one(run_id, self._attempts_if_known())

    def _one(self, run_id: str, jobs: Mapping[str, Attempt] | None) -> Standing:
        own = attempts_by_run(jobs.values()) if jobs else {}
        try:
            run = self.facts.run(run_id)
        except NotFoundError:
            if jobs is None:
                raise DeadlineError(
                    f"whether {run_id} was submitted is not known: Ray's dashboard does not answer",
                    hint="ask again in a moment; `mulm doctor` looks at the dashboard",
                ) from None
            if run_id not in own or not _makes(own[run_id]):
                raise
            run = self._unborn(run_id, own[run_id])
        return self._stands(run, own, jobs)

    def find(self, text: str) -> Standing:
        """The run that a person means; see `mulm.runs.find`.

        Raises:
            NotFoundError, ConfigError: none or several are meant.
        """
        return self.one(find_run(text, [found.run for found in self.all()]).id)

    def pause(self, run_id: str, timeout_s: float = END_TIMEOUT_S) -> Standing:
        """Have a run write a checkpoint and end, to go on later; returns how it then stands.

        It has succeeded where it was done before it could be asked.

        Raises:
            ConflictError: it has ended, or is only starting.
            MulmError: it failed on the way; what it failed with.
            DeadlineError: its process has not ended in time; it still will.
        """
        self.ask_to_pause(run_id)
        return self._ended(run_id, timeout_s)

    def ask_to_pause(self, run_id: str) -> Standing:
        """As `pause`, without waiting for it."""
        if may_pause(self.one(run_id)):
            self._move(run_id, "pausing", only_from=UNDER_WAY | {"pausing"})
        return self.one(run_id)

    def cancel(self, run_id: str, timeout_s: float = END_TIMEOUT_S) -> Standing:
        """End a run for good, also one that waits or is paused; returns how it then stands.

        Its checkpoints stay. It has succeeded where it was done before it could be asked.

        Raises:
            ConflictError: it has succeeded or failed already.
            DeadlineError: its process has not ended in time; it still will.
        """
        self.ask_to_cancel(run_id, timeout_s)
        return self._wait(run_id, timeout_s)

    def ask_to_cancel(self, run_id: str, timeout_s: float = END_TIMEOUT_S) -> Standing:
        """As `cancel`, without waiting but for a process that is only starting.

        Raises:
            DeadlineError: what works on the run is not known, so nothing could be ended.
        """
        found = self._one(run_id, self._attempts())
        if not may_cancel(found):
            return found
        if found.is_starting:
            self._cancel_starting(found, timeout_s)
        else:
            self._move(run_id, "cancelled", only_from=UNENDED, error=_CANCELLED)
            if self._jobs is not None and found.job is not None and found.job.is_living:
                self._jobs.stop_job(found.job.submission_id)  # kills what does not react
        return self.one(run_id)

    def stand(self, runs: Sequence[Run]) -> list[Standing]:
        """How these runs stand; asks the cluster only if one of them has not come to rest."""
        if all(run.is_resting for run in runs):
            return [standing(run, is_held=False, job=None) for run in runs]
        jobs = self._attempts_if_known()
        own = attempts_by_run(jobs.values()) if jobs else {}
        return [self._stands(run, own, jobs) for run in runs]

    def folder(self, run_id: str) -> Path:
        """Where a run keeps its checkpoints and its config."""
        return self._home.run(run_id)

    def log_tail(self, run_id: str, n_lines: int) -> str:
        """The last lines that the run's job printed; empty without one."""
        return self._jobs.log_tail(run_id, n_lines) if self._jobs else ""

    def _cancel_starting(self, found: Standing, timeout_s: float) -> None:
        """Its process would not look for a request: it is ended first, then nobody else writes."""
        assert self._jobs is not None, "a run is starting because of a job"
        self._jobs.stop(found.run.id)
        self._jobs.wait(found.run.id, timeout_s)
        self._write("create_run", found.run.id, found.run.kind, found.run.config)
        if self.facts.run(found.run.id).phase not in ("succeeded", "cancelled"):
            self._move(found.run.id, "cancelled", error=_CANCELLED)

    def _ended(self, run_id: str, timeout_s: float) -> Standing:
        """Wait until a pausing run's process has ended; a failure on the way is raised."""
        found = self._wait(run_id, timeout_s)
        if found.is_lost:
            self._move(run_id, "failed", only_from=UNENDED, error=found.run.error)
        if found.run.phase == "failed":
            raise noted_error(found.run)
        return found

    def _wait(self, run_id: str, timeout_s: float) -> Standing:
        deadline_s = time.monotonic() + timeout_s
        while (found := self.one(run_id)).is_living:
            if time.monotonic() > deadline_s:
                raise DeadlineError(
                    f"the process of {run_id} has not ended within {timeout_s:.0f} s",
                    hint="it was asked to and may still be writing: `mulm runs show` tells",
                )
            self._sleep(_POLL_S)
        return found

    def _move(
        self,
        run_id: str,
        phase: Phase,
        only_from: Collection[Phase] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        phases = None if only_from is None else sorted(only_from)
        self._write("set_phase", run_id, phase, only_from=phases, error=error)

    def _attempts(self) -> dict[str, Attempt]:
        return self._jobs.attempts() if self._jobs else {}

    def _attempts_if_known(self) -> dict[str, Attempt] | None:
        """None where Ray's dashboard hangs: that says of no run that nobody works on it."""
        try:
            return self._attempts()
        except DeadlineError:
            return None

    def _stands(
        self, run: Run, own: Mapping[str, Attempt], jobs: Mapping[str, Attempt] | None
    ) -> Standing:
        if jobs is None:  # what the ledger says is believed
            return Standing(run, is_living=not run.is_resting)
        held, job = is_held(self._home, run.id), own.get(run.id)
        if job is None or not job.is_living:
            started = None if run.is_resting else self.facts.last_event(run.id, "started")
            job = jobs.get(str(started.data.get("job")), job) if started else job
        found = standing(run, is_held=held, job=job)
        if found.is_lost and (again := self.facts.run(run.id)).is_resting:
            return standing(again, is_held=False, job=job)  # it ended between the two looks
        return found

    def _unborn(self, run_id: str, job: Attempt) -> Run:
        """A run of which there is no more than a job and the config that it was given."""
        try:
            config = read_mapping(self._home.run(run_id) / "config.json")
        except MulmError:
            config = {}
        return Run(run_id, job.kind, config, "queued", job.started_s, job.started_s)


@dataclass(frozen=True, slots=True)
class RunWatch:
    """The process behind one run, whatever it is, as `jobs.follow` asks for it."""

    desk: RunDesk
    run_id: str

    def has_ended(self) -> bool:
        """Whether no process works on the run."""
        return not self.desk.one(self.run_id).is_living

    def log_tail(self, n_lines: int) -> str:
        """The last lines that it printed, as far as they are kept."""
        return self.desk.log_tail(self.run_id, n_lines)


def _makes(job: Attempt) -> bool:
    """Whether a job is about to make a run; of one that ended before, its own log says why."""
    return job.is_living and bool(job.kind)


_STOPPED = StoppedError("cancelled on request", hint="its checkpoints are kept")
_CANCELLED = {"code": _STOPPED.code, "message": _STOPPED.message, "hint": _STOPPED.hint}


@contextmanager
def open_desk(home: Home) -> Iterator[RunDesk]:
    """The desk of this machine's installation, with the application up or not."""
    with Ledger(home.create().ledger) as facts:
        try:
            jobs = JobClient.of(connect(home), home)
        except NotRunningError:
            jobs = None
        yield RunDesk(home, facts, jobs, partial(write_fact, home))
