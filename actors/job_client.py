"""Jobs of the running cluster: submit, watch, stop, over Ray's HTTP API.

Used by the command line and by `down`. A run's first job has the run id as its submission id;
Ray takes an id only once, so the next attempts are `run_x-2`, `run_x-3` ... Invariant: a run has
at most one living job.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from actors.cluster_info import ClusterInfo
from actors.dashboard import TIMEOUT_S, Dashboard
from mulm.errors import DeadlineError, JobFailedError, NotFoundError
from mulm.facts import Facts
from mulm.home import Home
from mulm.records import Run
from mulm.runs.standing import lost_error

Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
ENDED: frozenset[Status] = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})

_POLL_S = 0.1
_SUBMIT_TIMEOUT_S = 90.0
_LOOK_TIMEOUT_S = 3.0
"""Of what a person or a page waits for; a healthy dashboard answers in some hundredths."""
_HINT = "run the same command again: it goes on from what was finished"
_RUN_KIND = re.compile(r"-m jobs\.(\w+)")
_JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's name of the variable that tells a job's driver who it is."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One job of a run; `number` counts from 1."""

    submission_id: str
    number: int
    status: Status
    message: str
    started_s: float = 0.0
    kind: str = ""
    """Of the run: what follows `-m jobs.` in its command."""

    @property
    def is_living(self) -> bool:
        """Whether it has not ended."""
        return self.status not in ENDED


class JobClient:
    """The jobs of one cluster, by run id."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard

    @classmethod
    def of(cls, info: ClusterInfo, home: Home) -> JobClient:
        """The jobs of the running application."""
        return cls(Dashboard.of(info, home))

    def submit(
        self,
        module: str,
        run_id: str,
        config_path: Path,
        folder: Path | None = None,
    ) -> str:
        """Start `python -m MODULE --config FILE --run ID` as a job; returns its submission id.

        Relative paths in the config are read from `folder`, by default the current one. A run
        whose job still lives is not started twice: the living job's id is returned.

        Raises:
            NotRunningError: the application is not up.
        """
        newest = self.newest(run_id)
        if newest is not None and newest.status not in ENDED:
            return newest.submission_id
        submission_id = _attempt_id(run_id, newest.number + 1 if newest else 1)
        command = [sys.executable, "-m", module, "--config", str(config_path), "--run", run_id]
        body = {
            "entrypoint": f"cd {shlex.quote(str(folder or Path.cwd()))} && exec"
            f" {shlex.join(command)}",
            "submission_id": submission_id,
        }
        self._dashboard.request("POST", "/api/jobs/", body, _SUBMIT_TIMEOUT_S)
        return submission_id

    def newest(self, run_id: str) -> Attempt | None:
        """The last attempt of a run, if any was made in this cluster."""
        return newest_attempt(run_id, self._jobs())

    def attempts(self) -> dict[str, Attempt]:
        """All jobs of this cluster by submission id, those that other programs made included.

        Raises:
            DeadlineError: Ray's dashboard hangs: nothing is known of any job.
            NotRunningError: nobody answers.
        """
        jobs = [_attempt(job, 1) for job in self._jobs(_LOOK_TIMEOUT_S)]
        return {job.submission_id: job for job in jobs}

    def has_ended(self, run_id: str) -> bool:
        """Whether no process works on the run."""
        newest = self.newest(run_id)
        return newest is None or newest.status in ENDED

    def logs(self, run_id: str) -> str:
        """What the last attempt printed.

        Raises:
            NotFoundError: there was none.
        """
        answer = self._dashboard.request("GET", f"/api/jobs/{self._known(run_id)}/logs")
        return str(answer["logs"])

    def log_tail(self, run_id: str, n_lines: int) -> str:
        """The last lines of `logs`; empty without a job. Raises as `attempts`."""
        newest = newest_attempt(run_id, self._jobs(_LOOK_TIMEOUT_S))
        if newest is None:
            return ""
        path = f"/api/jobs/{newest.submission_id}/logs"
        answer = self._dashboard.request("GET", path, timeout_s=_LOOK_TIMEOUT_S)
        return "\n".join(str(answer["logs"]).splitlines()[-n_lines:])

    def stop(self, run_id: str) -> None:
        """Ask the run's job to end; it may write a checkpoint first. Harmless when it has ended."""
        newest = self.newest(run_id)
        if newest is not None and newest.is_living:
            self.stop_job(newest.submission_id)

    def stop_job(self, submission_id: str) -> None:
        """Ask a job to end, by Ray's name for it. Harmless when it has ended."""
        self._dashboard.request("POST", f"/api/jobs/{submission_id}/stop", {})

    def wait(self, run_id: str, timeout_s: float) -> Status:
        """Wait until the last attempt has ended.

        Raises:
            DeadlineError: it has not within `timeout_s`.
            NotFoundError: there is none.
        """
        self._known(run_id)
        deadline_s = time.monotonic() + timeout_s
        while (newest := self.newest(run_id)) and newest.status not in ENDED:
            if time.monotonic() > deadline_s:
                raise DeadlineError(
                    f"the job of {run_id} has not ended within {timeout_s:.0f} s",
                    hint="it was asked to, or still works: `mulm runs show` tells",
                )
            time.sleep(_POLL_S)
        assert newest is not None
        return newest.status

    def stop_all(self, timeout_s: float) -> list[str]:
        """Ask all living jobs to end and wait for them; returns the ids of those that still live.

        Jobs that were submitted by other means are asked too.
        """
        asked = self._living()
        for submission_id in asked:
            self.stop_job(submission_id)
        deadline_s = time.monotonic() + timeout_s
        while asked and (left := self._living()):
            if time.monotonic() > deadline_s:
                return left
            time.sleep(_POLL_S)
        return []

    def _jobs(self, timeout_s: float = TIMEOUT_S) -> list[dict[str, object]]:
        jobs = self._dashboard.request("GET", "/api/jobs/", timeout_s=timeout_s)
        return [job for job in jobs if job.get("submission_id")]

    def _living(self) -> list[str]:
        return [str(job["submission_id"]) for job in self._jobs() if job["status"] not in ENDED]

    def _known(self, run_id: str) -> str:
        newest = self.newest(run_id)
        if newest is None:
            raise NotFoundError(
                f"{run_id} has no job in this cluster", hint="`mulm runs ls` lists runs"
            )
        return newest.submission_id


@dataclass(frozen=True, slots=True)
class JobWatch:
    """The job behind one run, as `jobs.follow` asks for it."""

    jobs: JobClient
    run_id: str

    def has_ended(self) -> bool:
        """Whether the job's process is gone."""
        return self.jobs.has_ended(self.run_id)

    def log_tail(self, n_lines: int) -> str:
        """The last lines that it printed."""
        return self.jobs.log_tail(self.run_id, n_lines)


def newest_attempt(run_id: str, jobs: Sequence[Mapping[str, object]]) -> Attempt | None:
    """The attempt with the largest number among the jobs of the dashboard's list."""
    pattern = re.compile(re.escape(run_id) + r"(?:-([0-9]+))?")
    attempts = [
        _attempt(job, int(match.group(1) or 1))
        for job in jobs
        if (match := pattern.fullmatch(str(job["submission_id"])))
    ]
    return max(attempts, key=lambda attempt: attempt.number, default=None)


def attempts_by_run(jobs: Iterable[Attempt]) -> dict[str, Attempt]:
    """The newest of the jobs whose ids say for which run they are, by run id."""
    newest: dict[str, Attempt] = {}
    for job in jobs:
        if match := re.fullmatch(r"(run_\w+?)(?:-([0-9]+))?", job.submission_id):
            numbered = replace(job, number=int(match.group(2) or 1))
            known = newest.get(match.group(1))
            if known is None or known.number < numbered.number:
                newest[match.group(1)] = numbered
    return newest


def own_submission_id(env: Mapping[str, str] = os.environ) -> str:
    """The id of the job that this process is the driver of; empty outside of one."""
    try:
        return str(json.loads(env[_JOB_CONFIG_VARIABLE])["metadata"]["job_submission_id"])
    except (KeyError, ValueError, TypeError):
        return ""


def reconcile(facts: Facts, run: Run, job: Attempt | None) -> Run:
    """Make the ledger say what is true of a run whose process died without telling.

    Args:
        facts: The ledger.
        run: As it was read before `job` was.
        job: Its last attempt in the running cluster; None when the cluster knows of none.

    Returns:
        The run as it now stands; failed, if it was thought to be under way and is not.
    """
    is_living = job is not None and job.is_living
    if run.is_resting or is_living or facts.run(run.id).is_resting:
        return facts.run(run.id)
    error = lost_run_error(run.id, job)
    described = {"code": error.code, "message": error.message, "hint": error.hint}
    facts.set_phase(run.id, "failed", error=described)
    return facts.run(run.id)


def lost_run_error(run_id: str, job: Attempt | None) -> JobFailedError:
    """Why a run without a living process has no end of its own, seen from its cluster."""
    if job is None:
        return JobFailedError("the application ended while the run was under way", hint=_HINT)
    return lost_error(run_id, job)


def _attempt(job: Mapping[str, object], number: int) -> Attempt:
    kind = _RUN_KIND.search(str(job.get("entrypoint") or ""))
    return Attempt(
        submission_id=str(job["submission_id"]),
        number=number,
        status=cast(Status, job["status"]),
        message=str(job.get("message") or ""),
        started_s=float(cast(int, job.get("start_time") or 0)) / 1000.0,
        kind=kind.group(1) if kind else "",
    )


def _attempt_id(run_id: str, number: int) -> str:
    return run_id if number == 1 else f"{run_id}-{number}"
