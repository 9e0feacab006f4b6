"""How every job runs: one way from the command line to the ledger and to an exit code.

`jobs.prepare`, `jobs.train` and `jobs.evaluate` call `run_job`; Ray runs them as the driver of a
job. Invariants: the same config is the same run; however the work ends, the ledger says how,
unless the process was killed, and then doing it again goes on from what was finished.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import mulm
from actors.job_client import own_submission_id
from jobs.exit_codes import exit_code
from jobs.progress import Progress
from jobs.push import push_made
from jobs.run_end import GOES_ON, as_ours, note_end
from jobs.signals import signals_wait, stopping_on_signals
from jobs.stop_requests import stopped_on_request
from mulm.config import Frozen, load_config
from mulm.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    MulmError,
    NotFoundError,
    StoppedError,
)
from mulm.facts import Facts
from mulm.home import Home
from mulm.log import configure_logging
from mulm.records import Phase, Run
from mulm.run_lock import run_lock
from mulm.runs.identity import identity_of, pinned, run_id_of
from mulm.runs.made import gone
from mulm.store import Store
from mulm.terminal_text import harmless

_log = logging.getLogger(__name__)

C = TypeVar("C", bound=Frozen)
Identity = Callable[[C, Facts, Store], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class JobContext:
    """What the work of a job stands on."""

    run_id: str
    home: Home
    store: Store
    facts: Facts

    def emit(self, kind: str, **data: Any) -> None:
        """Append one event to the run; it is durable on return."""
        self.facts.append_events(self.run_id, [(kind, data)])

    def move(self, phase: Phase, *only_from: Phase) -> None:
        """Move the run on.

        Raises:
            StoppedError: it is in another phase, since someone asked to stop.
        """
        try:
            self.facts.set_phase(self.run_id, phase, only_from=only_from)
        except ConflictError as error:
            raise StoppedError(f"stopped: {error.message}", hint=GOES_ON) from None


def run_job(
    kind: str,
    argv: Sequence[str],
    schema: type[C],
    work: Callable[[JobContext, C], dict[str, Any]],
    identity: Identity[C] | None = None,
) -> int:
    """Read the arguments, do the work in a run of the ledger, return the exit code.

    Args:
        kind: The kind of run ("prepare", "train", "evaluate").
        argv: The arguments without the program's name: `--config FILE [--run ID] [--set K=V]`.
        schema: What the file must fit.
        work: Does it; returns the result that the ledger keeps.
        identity: What the run id is derived from beside the config, such as the ids of the
            versions that its references mean today.
    """
    configure_logging()
    try:
        arguments = _parse(kind, argv)
        config = load_config(schema, arguments.config, arguments.overrides)
        home, facts, store = _connect()
        with stopping_on_signals():  # after connecting, since Ray sets a handler of its own
            context = JobContext(arguments.run or "", home, store, facts)
            result = _run(kind, config, work, identity, context)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 the border
        return _report(error)
    print(json.dumps(result), flush=True)
    return 0


def execute(
    kind: str,
    config: C,
    work: Callable[[JobContext, C], dict[str, Any]],
    context: JobContext,
) -> dict[str, Any]:
    """Do the work as a run: its phases, its result or its error go to the ledger.

    What it has made is copied to a store elsewhere when it has succeeded (`jobs.push`).
    A run that has succeeded and whose result is still in the store is not repeated. Fields in
    the config's `NOT_IDENTITY` may differ from those that the run began with.

    Raises:
        ConflictError: the run exists with another config, or another process works on it.
        MulmError: what the work raised, noted in the ledger.
    """
    with run_lock(context.home, context.run_id):
        values = config.model_dump(mode="json")
        run = context.facts.create_run(context.run_id, kind, values)
        _check_same(run, kind, config)
        if is_finished(run, context.facts, context.store):
            _log.info("already finished run=%s", run.id)
            return dict(run.result or {})
        if run.config != values:
            context.facts.set_config(run.id, values)
        result = _work(config, work, context, run.phase)
    if kind != "evaluate":  # that names what it has read
        push_made(context.home, result, lambda text: context.emit("log", text=text))
    return result


def is_finished(run: Run, facts: Facts, store: Store) -> bool:
    """Whether the run has succeeded, and what its result names is there and whole.

    Every byte is hashed (about 0.6 s per GB), also when the command line has done so a moment
    ago: it makes a job only of what it found unfinished, so the second time ends at once. Hence
    the same command finds and mends a damaged file.
    """
    return run.phase == "succeeded" and damage_of(run, facts, store) is None


def damage_of(run: Run, facts: Facts, store: Store) -> str | None:
    """What is wrong with what a run's result names, if anything."""
    if (lost := gone(run, facts, store)) is not None:
        return lost
    try:
        for key, value in (run.result or {}).items():
            if key.endswith("_id"):
                store.paths(store.load(str(value)).blobs)
    except (NotFoundError, CorruptError) as error:
        return error.message
    return None


def _run(
    kind: str,
    config: C,
    work: Callable[[JobContext, C], dict[str, Any]],
    identity: Identity[C] | None,
    context: JobContext,
) -> dict[str, Any]:
    config = pinned(config, context.facts)
    if not context.run_id:
        extra = identity(config, context.facts, context.store) if identity else {}
        run_id = run_id_of(kind, config, extra)
        context = JobContext(run_id, context.home, context.store, context.facts)
        from jobs.narrator import narrated  # imports Ray, as this job has

        with narrated(context.facts, run_id, Progress(sys.stderr)):
            return {"run": run_id, **execute(kind, config, work, context)}
    _log.info("start kind=%s run=%s", kind, context.run_id)
    return {"run": context.run_id, **execute(kind, config, work, context)}


def _work(
    config: C,
    work: Callable[[JobContext, C], dict[str, Any]],
    context: JobContext,
    before: Phase,
) -> dict[str, Any]:
    try:
        context.move("running", before)
        context.emit("started", **_origin())
        with stopped_on_request(context.facts, context.run_id):
            result = work(context, config)
        with signals_wait():  # a request that came too late: what was finished counts
            context.facts.set_phase(context.run_id, "succeeded", result=result)
    except BaseException as error:
        with signals_wait():
            note_end(context.facts, context.run_id, error)
        raise
    return result


def _origin() -> dict[str, Any]:
    """Which process works on a run, and how to do so again."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "folder": os.getcwd(),
        "pid": os.getpid(),
        "job": own_submission_id(),
        "version": mulm.__version__,
    }


def _parse(kind: str, argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=f"python -m jobs.{kind}")
    parser.add_argument("--config", type=Path, required=True, help="a YAML or JSON file")
    parser.add_argument("--run", help="the run id; by default derived from the config")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="change one value of the config",
    )  # fmt: skip
    return parser.parse_args(argv)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, hint=self.format_usage().strip())


def _connect() -> tuple[Home, Facts, Store]:
    import ray

    from actors.ledger_host import NAMESPACE, connect_facts
    from actors.store_host import cluster_store
    from mulm.errors import NotRunningError

    home = Home.from_env()
    if not ray.is_initialized():
        if not os.environ.get("RAY_ADDRESS"):
            raise NotRunningError(
                "this is not inside a Ray job", hint="use the `mulm` command or `ray job submit`"
            )
        ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="WARNING")
    return home, connect_facts(), cluster_store(home)


def _check_same(run: Run, kind: str, config: Frozen) -> None:
    began = {key: value for key, value in run.config.items() if key not in config.NOT_IDENTITY}
    is_blank = not run.config  # cancelled before it could say what it was
    if run.kind != kind or (began != identity_of(config) and not is_blank):
        raise ConflictError(
            f"{run.id} is a {run.kind} run with another config",
            hint="leave `--run` away: the id is then derived from the config",
        )


def _report(error: BaseException) -> int:
    ours = as_ours(error)
    if type(ours) is MulmError:
        _log.error("unforeseen", exc_info=error)
    hint = f" ({ours.hint})" if ours.hint else ""
    told = f"error [{ours.code}]: {ours.message}{hint}"
    print(harmless(told), file=sys.stderr, flush=True)
    return exit_code(ours)
