"""The steps of the journey as the command line and the demo take them.

With the application up, a step submits a Ray job and follows its run; without it, building a
dataset, training with one worker and evaluating run in this process, on the same pure code.
Invariants: the same config is the same run, so a finished step is not repeated; a step that is
stopped with Ctrl-C has stopped its job when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from actors.cluster import connect, is_up
from actors.cluster_info import ClusterInfo, read_token
from actors.job_client import JobClient
from jobs.chat_client import ChatClient
from jobs.entry import Identity, JobContext, execute, is_finished, run_id_of
from jobs.follow import follow, known_run, last_seq
from jobs.identity import evaluate_identity, prepare_identity, train_identity
from jobs.progress import Progress
from mulm.atomic import write_atomic
from mulm.config import Frozen, canonical_json, load_config, parse_config
from mulm.data.recipe import Recipe
from mulm.errors import StoppedError
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger, Version
from mulm.manifest import Kind
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.train.config import TrainConfig

C = TypeVar("C", bound=Frozen)
Result = dict[str, Any]


class Steps:
    """What can be done in one installation, each step with its progress on a stream."""

    def __init__(self, home: Home, progress: Progress) -> None:
        self._home = home.create()
        self._progress = progress
        self._store = Store(home.store)
        self._facts = Ledger(home.ledger)

    def build_dataset(self, recipe_path: Path, overrides: Sequence[str] = ()) -> Result:
        """Text to a dataset version; see `jobs.prepare`."""
        recipe = _absolute(load_config(Recipe, recipe_path, overrides))
        return self._run("prepare", recipe, prepare_identity)

    def train(self, config_path: Path, overrides: Sequence[str] = ()) -> Result:
        """A dataset version to a model; see `jobs.train`."""
        config = load_config(TrainConfig, config_path, overrides)
        return self._run("train", config, train_identity)

    def evaluate(self, model: str) -> Result:
        """Bits per byte of a model on held-out text; see `jobs.evaluate`."""
        config = parse_config(EvaluateConfig, {"model": model})
        return self._run("evaluate", config, evaluate_identity)

    def serve(self, model: str, min_replicas: int = 1, max_replicas: int = 2) -> Result:
        """Put a model behind HTTP and wait until it answers."""
        from serve_app.deploy import deploy
        from serve_app.settings import AppArgs

        info = connect(self._home)
        version = self._facts.resolve("model", parse_ref(model))
        args = parse_config(
            AppArgs,
            {"model": version.ref, "min_replicas": min_replicas, "max_replicas": max_replicas},
        )
        deploy(info, read_token(self._home), args, report=lambda text: self._progress.line(f"  {text}"))
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
            self._progress.stage(kind, 0.0, f"nothing to do: {run_id} is finished")
            return dict(known.result or {})
        if is_up(self._home):
            return self._run_job(kind, config, run_id, connect(self._home))
        return self._run_here(kind, config, run_id)

    def _run_job(self, kind: str, config: Frozen, run_id: str, info: ClusterInfo) -> Result:
        config_path = self._home.run(run_id) / "config.json"
        write_atomic(config_path, canonical_json(config.model_dump(mode="json")))
        jobs = JobClient(info, read_token(self._home))
        after = last_seq(self._facts, run_id)
        try:
            job = jobs.submit(f"jobs.{kind}", run_id, config_path)
            return dict(follow(run_id, after, self._facts, job, self._progress).result or {})
        except KeyboardInterrupt:
            self._progress.line("  stopping after a checkpoint")
            jobs.stop(run_id)
            raise StoppedError(
                f"{run_id} was stopped", hint="the same command goes on where it was"
            ) from None

    def _run_here(self, kind: str, config: C, run_id: str) -> Result:
        context = JobContext(run_id, self._home, self._store, Watched(self._facts, self._progress))
        try:
            return execute(kind, config, _work_here(kind), context)
        finally:
            self._progress.clear()
