"""Follows a run of a server elsewhere until it ends, over any number of broken connections.

Called by the verbs that start or resume work with `--url`, by `mulm runs watch` and `logs -f`.
Invariants: each event is told once and in order; the result is what the server says after the last
event, so one that was missed changes nothing; Ctrl-C only ends the watching.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

from jobs.progress import Progress
from jobs.remote import Remote
from jobs.remote_runs import RemoteRuns
from mulm.errors import NotRunningError, StoppedError, UnreachableError
from mulm.records import RESTING, Event
from mulm.runs.standing import Standing, noted_error

PATIENCE_S = 300.0
"""How long a server may be away before watching ends; the run goes on."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0

Result = dict[str, Any]
Note = Callable[[str], None]


def start_and_follow(
    remote: Remote, kind: str, config: Mapping[str, Any], progress: Progress
) -> Result:
    """Start a run and show what happens until it ends; returns its result.

    Raises:
        StoppedError: it was paused or cancelled; or Ctrl-C, and it goes on.
        UnreachableError: the server is away for long; the run goes on.
        MulmError: what the server says, or what the run failed with.
    """
    runs = RemoteRuns(remote)
    begun = runs.start(kind, config)
    run_id = begun.standing.run.id
    if not begun.is_begun:
        progress.line(f"  {run_id} has finished before")
        return dict(begun.standing.run.result or {})
    progress.line(f"  {run_id} at {remote.url}")
    return attend(runs, run_id, newest_phase(runs, run_id), progress)


def attend(runs: RemoteRuns, run_id: str, after: int, progress: Progress) -> Result:
    """Show a run's events behind `after` until it ends; returns its result. Raises as above."""
    try:
        for event in happening(runs, run_id, after, progress.note):
            progress.event(event.kind, event.data)
    except KeyboardInterrupt:
        raise _detached(run_id, runs.remote.url, "unwatched") from None
    finally:
        progress.clear()
    return _result(runs.one(run_id), runs.remote.url)


def happening(
    runs: RemoteRuns,
    run_id: str,
    after: int,
    note: Note = lambda _text: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Events behind `after`, as they come, until no process works on the run.

    Raises:
        UnreachableError: the server is away for longer than `PATIENCE_S`.
        MulmError: what the server says.
    """
    pause_s, lost_s, is_resting = _FIRST_PAUSE_S, None, True
    while True:
        try:
            for event in _until_a_look(runs, run_id, after, is_resting):
                after, pause_s, lost_s = event.seq, _FIRST_PAUSE_S, None
                yield event
            found, lost_s = runs.one(run_id), None
            if not found.is_living:
                while batch := runs.events(run_id, after):  # said before the look
                    after = batch[-1].seq
                    yield from batch
                return
            is_resting = found.run.is_resting
        except (UnreachableError, NotRunningError) as error:
            now_s = clock()
            lost_s = now_s if lost_s is None else lost_s
            if now_s - lost_s > PATIENCE_S:
                raise UnreachableError(error.message, hint=_back(run_id, runs.remote.url)) from None
            note(f"the connection broke ({error.message}); trying again")
        sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


def _until_a_look(runs: RemoteRuns, run_id: str, after: int, is_resting: bool) -> Iterator[Event]:
    """Events as they come, until it is time to see how the run stands.

    A run that rests, whose process still ends or is about to begin, may never say more: of that,
    what is there.
    """
    if is_resting:
        yield from runs.events(run_id, after)
        return
    with closing(runs.stream(run_id, after)) as events:
        for event in events:
            if event is None:
                if not runs.one(run_id).is_living:
                    return
                continue
            yield event
            if event.kind == "phase" and event.data.get("phase") in RESTING:
                return


def newest_phase(runs: RemoteRuns, run_id: str) -> int:
    """The number of the newest event that moved the run: what came before is an older try."""
    after = 0
    while batch := runs.events(run_id, after, kinds=("phase",)):
        after = batch[-1].seq
    return after


def _result(found: Standing, url: str) -> Result:
    run = found.run
    if run.phase == "succeeded":
        return dict(run.result or {})
    if run.phase == "failed":
        raise noted_error(run)
    if run.phase in ("paused", "cancelled"):
        raise StoppedError(f"{run.id} was {run.phase}", hint=f"`mulm runs resume {run.id}` goes on")
    raise _detached(run.id, url, f"and is {run.phase}")


def _detached(run_id: str, url: str, how: str) -> StoppedError:
    return StoppedError(f"{run_id} goes on at {url}, {how}", hint=_back(run_id, url))


def _back(run_id: str, url: str) -> str:
    return f"`mulm runs watch {run_id} --url {url}` comes back, `runs cancel` ends the run"
