"""The steps of the journey as the command line and the demo take them.

With the application up, a step submits a Ray job and follows its run; without it, building a
dataset, training with one worker and evaluating run in this process, on the same pure code.
Invariants: the same config is the same run, so a finished step is not repeated; a step that is
stopped with Ctrl-C has stopped its job when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from actors.cluster import connect
from actors.cluster_info import ClusterInfo, read_token
from actors.job_client import JobClient, JobWatch
from jobs.chat_client import ChatClient
from jobs.entry import Identity, JobContext, execute, is_finished, run_id_of
from jobs.follow import follow, known_run, last_seq
from jobs.identity import evaluate_identity, prepare_identity, train_identity
from jobs.progress import Progress
from mulm.atomic import write_atomic
from mulm.config import Frozen, canonical_json, load_config, parse_config
from mulm.data.recipe import Recipe
from mulm.errors import NotRunningError, StoppedError
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger, Version
from mulm.manifest import Kind
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.train.config import TrainConfig

C = TypeVar("C", bound=Frozen)
Result = dict[str, Any]
_STOP_TIMEOUT_S = 60.0


class Steps:
    """What can be done in one installation, each step with its progress on a stream."""

    def __init__(self, home: Home, progress: Progress) -> None:
        self._home = home.create()
        self._progress = progress
        self._store = Store(home.store)
        self._facts = ShownLedger(home.ledger, progress)

    def build_dataset(self, recipe_path: Path, overrides: Sequence[str] = ()) -> Result:
        """Text to a dataset version; see `jobs.prepare`."""
        return self._run("prepare", load_config(Recipe, recipe_path, overrides), prepare_identity)

    def train(self, config_path: Path, overrides: Sequence[str] = ()) -> Result:
        """A dataset version to a model; see `jobs.train`."""
        return self._run("train", load_config(TrainConfig, config_path, overrides), train_identity)

    def evaluate(self, model: str, promote: str | None = None) -> Result:
        """Bits per byte of a model on held-out text; see `jobs.evaluate`."""
        config = parse_config(EvaluateConfig, {"model": model, "promote": promote})
        return self._run("evaluate", config, evaluate_identity)

    def serve(self, model: str, min_replicas: int = 1, max_replicas: int = 2) -> Result:
        """Put a model behind HTTP and wait until it answers."""
        from serve_app.deploy import deploy
        from serve_app.settings import AppArgs

        info = connect(self._home)
        version = self._facts.resolve("model", parse_ref(model))
        values = {"min_replicas": min_replicas, "max_replicas": max_replicas}
        args = parse_config(AppArgs, {"model": version.ref} | values)
        deploy(info, read_token(self._home), args, report=_once_each(self._progress))
        return {
            "model": version.ref,
            "served_name": args.name,
            "url": info.api_url,
            "key_file": str(self._home.api_key),
        }

    def client(self) -> ChatClient:
        """A client of the HTTP API of the running application."""
        from serve_app.keys import read_first_key

        return ChatClient(connect(self._home).api_url, read_first_key(self._home))

    def versions(self, kind: Kind) -> list[Version]:
        """All versions of a kind, oldest first."""
        return self._facts.versions(kind)

    def _run(self, kind: str, config: C, identity: Identity[C]) -> Result:
        run_id = run_id_of(kind, config, identity(config, self._facts, self._store))
        known = known_run(self._facts, run_id)
        if known and is_finished(known, self._store):
            self._progress.line(f"  {kind}: finished already ({run_id})")
            return dict(known.result or {})
        try:
            info = connect(self._home)
        except NotRunningError:
            return self._run_here(kind, config, run_id)
        return self._run_job(kind, config, run_id, info)

    def _run_job(self, kind: str, config: Frozen, run_id: str, info: ClusterInfo) -> Result:
        config_path = self._home.run(run_id) / "config.json"
        write_atomic(config_path, canonical_json(config.model_dump(mode="json")))
        jobs = JobClient.of(info, self._home)
        after = last_seq(self._facts, run_id)
        try:
            jobs.submit(f"jobs.{kind}", run_id, config_path)
            watch = JobWatch(jobs, run_id)
            return dict(follow(run_id, after, self._facts, watch, self._progress).result or {})
        except KeyboardInterrupt:
            self._progress.line("  stopping; what is finished is kept")
            jobs.stop(run_id)
            jobs.wait(run_id, _STOP_TIMEOUT_S)
            raise _stopped(run_id) from None

    def _run_here(self, kind: str, config: C, run_id: str) -> Result:
        """Without the application: the same work in this process."""
        self._progress.line("  the application is not up: working in this process")
        self._facts.shows = True
        context = JobContext(run_id, self._home, self._store, self._facts)
        try:
            return execute(kind, config, _work_here(kind), context)
        except KeyboardInterrupt:
            raise _stopped(run_id) from None
        finally:
            self._facts.shows = False
            self._progress.clear()


class ShownLedger(Ledger):
    """A ledger that shows the events that it is told, while `shows` is set."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path)
        self.shows = False
        self._progress = progress

    def append_events(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """See `Facts.append_events`."""
        told = list(events)
        for kind, data in told if self.shows else ():
            self._progress.event(kind, data)
        return super().append_events(run_id, told)


def _work_here(kind: str) -> Callable[[JobContext, Any], Result]:
    """The work of a kind of run without a cluster."""
    if kind == "prepare":
        from jobs.prepare import prepare
        from mulm.data.executor import InProcess

        return partial(prepare, executor=InProcess())
    if kind == "train":
        from mulm.train.local import train_locally

        return lambda c, config: train_locally(config, c.run_id, c.home, c.store, c.facts)
    from jobs.evaluate import evaluate

    return evaluate


def _once_each(progress: Progress) -> Callable[[str], None]:
    """Show a text when it differs from the one before."""
    last = [""]

    def report(text: str) -> None:
        if text.strip() and text != last[0]:
            last[0] = text
            progress.line(f"  {text}")

    return report


def _stopped(run_id: str) -> StoppedError:
    return StoppedError(f"{run_id} was stopped", hint="the same command goes on where it was")
