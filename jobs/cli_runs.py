"""`mulm runs ...`: the verbs that look at runs; those that act are in `jobs.cli_runs_acts`.

A thin layer: how runs stand is known by `actors.run_desk`, and what they say by `mulm.runs`.
Invariant: nothing here changes anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from jobs.cli_complete import run_names
from jobs.cli_remote import with_server
from jobs.cli_runs_acts import ACTS
from jobs.cli_runs_desk import elsewhere, events_of, open_runs, with_run
from jobs.cli_runs_watch import watch
from jobs.cli_verbs import Verbs, say, with_json, with_quiet
from mulm.errors import ConfigError, ConflictError, UnknownNameError, nearest
from mulm.home import Home
from mulm.records import Phase, Run
from mulm.terminal_text import harmless

if TYPE_CHECKING:
    from actors.run_desk import RunDesk
    from mulm.runs.curve import Row

F = TypeVar("F", bound=Callable[..., Any])

_RUN_HELP = "RUN is an id, the beginning of one, or a model's name: its newest training run."


@click.group(cls=Verbs)
def runs() -> None:
    """Runs: list and show them, follow and compare them, pause, resume and cancel them.

    A run is one execution: a build, a training, an evaluation. Its id follows from its config.

    \b
    Example:  mulm runs watch demo
    """


for act in (*ACTS, watch):
    runs.add_command(act)


def _count(name: str, what: str, least: int = 1) -> Callable[[F], F]:
    return click.option(name, type=click.IntRange(min=least), metavar="N", help=what)


@runs.command("ls")
@click.option("--kind", help="Only prepare, train, evaluate, compress ...")
@click.option("--phase", type=click.Choice(get_args(Phase)), help="Only runs in this phase.")
@_count("--limit", "The newest N.")
@with_server
@with_json
def runs_ls(kind: str | None, phase: str | None, limit: int | None, as_json: bool) -> None:
    """List runs, newest first.

    \b
    Example:  mulm runs ls
              mulm runs ls --kind train --phase running
              mulm runs ls --limit 5 --json
    """
    from jobs.run_words import listing_lines
    from mulm.runs.digest import listed

    with open_runs() as desk:
        _require_kind(desk, kind)
        found = [one for one in desk.all(kind) if phase in (None, one.run.phase)]
        rows = [listed(one, desk.facts) for one in found[:limit]]
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        say("there are none")
    _print(listing_lines(rows, time.time()))


@runs.command("show", epilog=_RUN_HELP)
@with_run
@with_json
def runs_show(run: str, as_json: bool) -> None:
    """Show RUN: its phase, what became of it, progress, checkpoints, what it reads, its config.

    \b
    Example:  mulm runs show demo
              mulm runs show run_3f2a --json
    """
    from jobs.run_words import description_lines
    from mulm.runs.digest import described

    with open_runs() as desk:
        found = desk.find(run)
        told = described(found, desk.facts, Home.from_env().run(found.run.id))
        told = elsewhere(desk, told)
    if as_json:
        click.echo(json.dumps(told))
    else:
        _print(description_lines(told, time.time()))


@runs.command("logs", epilog=_RUN_HELP)
@with_run
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@_count("--limit", "The last N events; all if not given.", least=0)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each event.")
@with_quiet
def runs_logs(run: str, follow: bool, limit: int | None, as_json: bool) -> None:
    """Print what happened in RUN, a line for each event.

    Metrics and samples have verbs of their own; with --json they are here too. Ctrl-C ends the
    watching, and the run goes on.

    \b
    Example:  mulm runs logs demo
              mulm runs logs run_3f2a -f --limit 20
              mulm runs logs demo --json | jq .kind
    """
    from jobs.run_words import event_lines
    from mulm.runs.curve import finite

    with open_runs() as desk:
        for event in events_of(desk, desk.find(run).run.id, limit, follow, with_all=as_json):
            if as_json:
                click.echo(json.dumps(asdict(event) | {"data": finite(event.data)}))
            else:
                _print(event_lines(event))


@runs.command("output", epilog=_RUN_HELP)
@with_run
@_count("--lines", "The last N lines; 200 if not given.")
@with_json
def runs_output(run: str, lines: int | None, as_json: bool) -> None:
    """Print the last lines that the process of RUN printed, as far as its job is known.

    \b
    Example:  mulm runs output demo
              mulm runs output run_3f2a --lines 1000
    """
    with open_runs() as desk:
        found = desk.find(run).run.id
        text = desk.log_tail(found, lines or 200)
    if as_json:
        click.echo(json.dumps({"run": found, "output": text}))
    elif text:
        click.echo(harmless(text))
    else:
        say("there is none")


@runs.command("metrics", epilog=_RUN_HELP)
@with_run
@_count("--every", "Only steps that N divides, and the newest.")
@_count("--last", "Only the last N rows.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each step.")
@with_quiet
def runs_metrics(
    run: str, every: int | None, last: int | None, as_csv: bool, as_json: bool
) -> None:
    """Print the numbers of a training RUN, step by step.

    \b
    Example:  mulm runs metrics demo --last 20
              mulm runs metrics demo --every 100
              mulm runs metrics run_3f2a --csv > demo.csv
    """
    from jobs.run_tables import csv_text, metric_lines
    from mulm.runs.curve import thinned

    if as_csv and as_json:
        raise ConfigError("--csv and --json are two formats", hint="give one of them")
    with open_runs() as desk:
        rows = thinned(_curve(desk, _training(desk, run)), every, last)
    if not rows:
        say("there are none yet")
    elif as_csv:
        click.echo(csv_text(rows), nl=False)
    elif as_json:
        _print(map(json.dumps, rows))
    else:
        _print(metric_lines(rows))


@runs.command("samples", epilog=_RUN_HELP)
@with_run
@_count("--last", "Only the last N steps that have any.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each text.")
@with_quiet
def runs_samples(run: str, last: int | None, as_json: bool) -> None:
    """Print what the model of a training RUN wrote after fixed prompts, as training went.

    \b
    Example:  mulm runs samples demo
              mulm runs samples demo --last 1
    """
    from jobs.run_tables import sample_lines
    from mulm.runs.digest import all_events
    from mulm.runs.samples import newest_samples

    with open_runs() as desk:
        found = _training(desk, run)
        samples = newest_samples(all_events(desk.facts, found.id, "sample"), last)
    if as_json:
        _print(map(json.dumps, samples))
    elif samples:
        _print(sample_lines(samples))
    else:
        say("there are none")


@runs.command("compare", epilog=_RUN_HELP)
@click.argument("names", metavar="RUN RUN...", nargs=-1, required=True, shell_complete=run_names)
@with_server
@with_json
def runs_compare(names: tuple[str, ...], as_json: bool) -> None:
    """Put training runs side by side, the best first: configs, curves at common steps, speed.

    \b
    Example:  mulm runs compare demo second
              mulm runs compare run_3f2a run_81bc run_77d0 --json
    """
    from jobs.run_tables import comparison_lines
    from mulm.runs.compare import Contender, compare

    with open_runs() as desk:
        found = {run.id: run for run in (_training(desk, name) for name in names)}
        if len(found) < 2:
            raise ConfigError(
                f"{' and '.join(names)}: one run has nothing beside it", hint="name two runs"
            )
        compared = compare([Contender(run, _curve(desk, run)) for run in found.values()])
    if as_json:
        click.echo(json.dumps(asdict(compared)))
    else:
        _print(comparison_lines(compared))


def _require_kind(desk: RunDesk, kind: str | None) -> None:
    """So that a slip of the pen does not look like an empty list."""
    from mulm.runs.kinds import SCHEMAS

    if kind is None or kind in SCHEMAS:
        return
    known = {*SCHEMAS, *(one.run.kind for one in desk.all())}
    if kind not in known:
        raise UnknownNameError(f"no kind of runs {kind!r}", hint=nearest(kind, known))


def _training(desk: RunDesk, text: str) -> Run:
    found = desk.find(text).run
    if found.kind != "train":
        raise ConflictError(
            f"{found.id} is a {found.kind} run, which has none of this",
            hint="`mulm runs ls --kind train` lists training runs",
        )
    return found


def _curve(desk: RunDesk, run: Run) -> list[Row]:
    from mulm.runs.curve import curve
    from mulm.runs.digest import all_events

    return curve(all_events(desk.facts, run.id, "metric"))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)
