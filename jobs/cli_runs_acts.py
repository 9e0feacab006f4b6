"""`mulm runs pause|resume|cancel`: the verbs that change how a run goes on.

Added to the group in `jobs.cli_runs`. What is allowed is decided in `mulm.runs.transitions`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_remote import open_remote
from jobs.cli_runs_desk import open_runs, with_run
from jobs.cli_verbs import (
    open_journey,
    print_result,
    shown_progress,
    with_json,
    with_overrides,
)
from mulm.errors import ConflictError
from mulm.home import Home

if TYPE_CHECKING:
    from actors.run_desk import RunDesk
    from mulm.runs.standing import Standing


@click.command("pause")
@with_run
@with_json
def pause(run: str, as_json: bool) -> None:
    """Have RUN write a checkpoint and end; `resume` goes on from there.

    Returns when its process has ended. A run that is no training keeps the steps that it finished.

    \b
    Example:  mulm runs pause demo
              mulm runs pause run_3f2a --json
    """
    with open_runs() as desk:
        _print_stand(desk, desk.pause(desk.find(run).run.id), as_json)


@click.command("cancel")
@with_run
@with_json
def cancel(run: str, as_json: bool) -> None:
    """End RUN, also one that waits or is paused. Its checkpoints stay.

    Only `resume --cancelled`, or the command that made the run, goes on with it.

    \b
    Example:  mulm runs cancel demo
              mulm runs cancel run_3f2a --json
    """
    with open_runs() as desk:
        _print_stand(desk, desk.cancel(desk.find(run).run.id), as_json)


@click.command("resume")
@with_run
@click.option("--cancelled", is_flag=True, help="Also a run that was cancelled or stopped.")
@click.option("--detach", is_flag=True, help="Do not wait for its end; needs `mulm up`.")
@with_overrides
@with_json
def resume(
    run: str, cancelled: bool, detach: bool, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Go on with RUN from its newest checkpoint: paused, failed, or killed.

    It keeps its id and its config; --set changes what has no part in the result, such as the number
    of workers. With the application up it is a job, otherwise this process does the work.

    \b
    Example:  mulm runs resume demo
              mulm runs resume demo --set workers=1
              mulm runs resume run_3f2a --cancelled --detach
    """
    from actors.run_desk import RunWatch, open_desk
    from jobs.run_resume import continuation
    from mulm.runs.transitions import may_resume
    from mulm.store import open_store

    if (result := _resumed_elsewhere(run, cancelled, detach, overrides)) is not None:
        print_result(result, as_json, "{run} goes on" if detach else "{run} has succeeded")
        return
    home = Home.from_env()
    with open_desk(home) as desk, open_journey() as journey:
        found = desk.find(run).run
        result = {"run": found.id}
        if not may_resume(desk.one(found.id), also_cancelled=cancelled):
            _require_no_change(found.id, overrides)
            result |= {} if detach else journey.attend(found.id, RunWatch(desk, found.id))
        else:
            order = continuation(found, desk.facts, open_store(home), overrides)
            result |= {"job": journey.leave(order)} if detach else journey.resume(order)
    print_result(result, as_json, "{run} goes on" if detach else "{run} has succeeded")


ACTS: tuple[click.Command, ...] = (pause, resume, cancel)


def _require_no_change(run_id: str, overrides: Sequence[str]) -> None:
    if overrides:
        raise ConflictError(
            f"{run_id} goes on already, without {' '.join(overrides)}",
            hint=f"`mulm runs pause {run_id}` first, then resume it so",
        )


def _resumed_elsewhere(
    run: str, cancelled: bool, detach: bool, overrides: Sequence[str]
) -> dict[str, Any] | None:
    """What came of it at the chosen server; None for this machine."""
    from jobs.remote_desk import RemoteDesk
    from jobs.remote_follow import attend, newest_phase

    with open_remote() as remote:
        if remote is None:
            return None
        desk = RemoteDesk(remote)
        found = desk.find(run).run.id
        after = newest_phase(desk.runs, found)
        desk.runs.resume(found, overrides, also_cancelled=cancelled)
        result = {} if detach else attend(desk.runs, found, after, shown_progress())
        return {"run": found} | result


def _print_stand(desk: RunDesk, found: Standing, as_json: bool) -> None:
    from mulm.runs.kinds import TRAIN

    step = _newest_checkpoint(desk, found.run.id)
    told = {"run": found.run.id, "phase": found.run.phase, "checkpoint": step}
    if as_json:
        click.echo(json.dumps(told))
        return
    kept = "" if step is None else f", with a checkpoint of step {step}"
    if step is None and found.run.kind == TRAIN:
        kept = ", before its first checkpoint"
    click.echo(f"{found.run.id} {_WORDS.get(found.run.phase, found.run.phase)}{kept}")


def _newest_checkpoint(desk: RunDesk, run_id: str) -> int | None:
    from jobs.remote_desk import RemoteDesk
    from mulm.runs.digest import checkpoint_steps

    if isinstance(desk, RemoteDesk):
        told = desk.facts.last_event(run_id, "checkpoint")
        return None if told is None else int(told.data["step"])
    steps = checkpoint_steps(Home.from_env().run(run_id) / "checkpoints")
    return steps[-1] if steps else None


_WORDS = {
    "paused": "is paused",
    "cancelled": "is cancelled",
    "succeeded": "had finished before: it has succeeded",
}
