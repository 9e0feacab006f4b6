"""The journey from text to answers, stage by stage, as the command line and the demo take it.

With the application up, a stage submits a Ray job and follows its run; without it, building a
dataset, training with one worker and evaluating happen in this process, on the same pure code.
Invariants: the same config is the same run, so a finished stage is not repeated; Ctrl-C leaves a
job that was submitted alone, unless the application ends with the command, as the demo's does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from actors.cluster import connect
from actors.cluster_info import ClusterInfo
from actors.job_client import JobClient, JobWatch, lost_run_error
from actors.run_starter import submit
from actors.tls_trust import trust_of
from actors.write_fact import write_fact
from jobs.chat_client import ChatClient
from jobs.entry import Identity, damage_of, is_finished
from jobs.follow import JobWatch as FollowedJob
from jobs.follow import follow, known_run, last_seq
from jobs.progress import Progress
from jobs.run_resume import Continuation
from jobs.stage_words import dataset_words, model_words, scores_words, smaller_words
from jobs.work_here import work_here
from mulm.config import Frozen, load_config, parse_config
from mulm.data.recipe import Recipe
from mulm.data.tokenizer_config import TokenizerConfig
from mulm.errors import MulmError, NotRunningError, StoppedError
from mulm.eval.config import EvaluateConfig
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Kind
from mulm.model.compress_config import CompressConfig
from mulm.records import Version
from mulm.refs import parse_ref
from mulm.run_lock import is_held
from mulm.runs.identity import (
    compress_identity,
    evaluate_identity,
    pinned,
    prepare_identity,
    run_id_of,
    tokenizer_identity,
    train_identity,
)
from mulm.store import open_store
from mulm.train.config import TrainConfig

C = TypeVar("C", bound=Frozen)
Result = dict[str, Any]

# Ray kills a job 60 s after it was asked to stop (`actors.head`).
_STOP_TIMEOUT_S = 75.0
_APPEAR_TIMEOUT_S = 3.0


class Journey:
    """The stages of one installation, each with its progress on a stream.

    Reads the ledger's file; while the application is up, only its actor writes it.

    Args:
        home: The installation.
        progress: Shows what goes on.
        stops_jobs: Whether Ctrl-C stops the job of a stage, and waits for its end.
    """

    def __init__(self, home: Home, progress: Progress, *, stops_jobs: bool = False) -> None:
        self._home, self._stops_jobs = home.create(), stops_jobs
        self._progress = progress
        self._store = open_store(home)
        self._facts = Ledger(home.ledger)

    def __enter__(self) -> Journey:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._facts.close()

    def build_dataset(self, recipe_path: Path, overrides: Sequence[str] = ()) -> Result:
        """Text to a dataset version; see `jobs.prepare`."""
        recipe = load_config(Recipe, recipe_path, overrides)
        return self._run("prepare", recipe, prepare_identity, dataset_words)

    def learn_tokenizer(self, config: TokenizerConfig) -> Result:
        """A tokenizer of a dataset's documents; see `jobs.train_tokenizer`."""
        return self._run("train_tokenizer", config, tokenizer_identity, "{tokenizer}".format_map)

    def train(self, config_path: Path, overrides: Sequence[str] = ()) -> Result:
        """A dataset version to a model; see `jobs.train`."""
        config = load_config(TrainConfig, config_path, overrides)
        return self._run("train", config, train_identity, model_words)

    def evaluate(self, model: str, dataset: str | None = None) -> Result:
        """Bits per byte of a model on held-out text, its own by default; see `jobs.evaluate`."""
        return self.measure(parse_config(EvaluateConfig, {"model": model, "dataset": dataset}))

    def measure(self, config: EvaluateConfig) -> Result:
        """Bits per byte, and the suites that the config names; see `jobs.evaluate`."""
        return self._run("evaluate", config, evaluate_identity, scores_words)

    def compress(self, config: CompressConfig) -> Result:
        """A model to a smaller one; see `jobs.compress`."""
        return self._run("compress", config, compress_identity, smaller_words)

    def resume(self, found: Continuation) -> Result:
        """Go on with a run under its own id, until it ends; with the application up as a job."""
        return self._do(found.kind, found.config, found.run_id, found.folder)

    def leave(self, found: Continuation) -> str:
        """Go on with a run as a job that is not waited for; returns the job's id.

        Raises:
            NotRunningError: the application is not up.
        """
        jobs = JobClient.of(connect(self._home), self._home)
        return submit(self._home, jobs, found.kind, found.config, found.run_id, found.folder)

    def attend(self, run_id: str, job: FollowedJob) -> Result:
        """Show a run that goes on elsewhere until it ends.

        Raises:
            StoppedError: it was paused or cancelled; or Ctrl-C, which only ends the showing.
        """
        after = last_seq(self._facts, run_id)
        try:
            return dict(follow(run_id, after, self._facts, job, self._progress).result or {})
        except KeyboardInterrupt:
            raise _unwatched(run_id) from None

    def promote(self, model: str, alias: str) -> Version:
        """Point an alias to a model version."""
        version = self._facts.resolve("model", parse_ref(model))
        with self._progress.timed("register") as say:
            if self._facts.aliases("model", version.name).get(alias) != version.number:
                write_fact(self._home, "set_alias", "model", version.name, alias, version.number)
            say(f"{version.ref} is {version.name}@{alias}")
        return version

    def serve(
        self,
        model: str,
        values: Mapping[str, Any] | None = None,
        overrides: Sequence[str] = (),
        adapters: Sequence[str] = (),
    ) -> Result:
        """Put a model behind HTTP and wait until it answers; for arguments see `serving_args`."""
        from jobs.serve_args import serving_args
        from jobs.serve_model import serve_model

        info, args = connect(self._home), serving_args(model, adapters, values, overrides)
        with self._progress.timed("serve") as say:
            serves = serve_model(info, args, home=self._home, report=self._progress.note)
            say(f"{info.api_url}/v1, key in {self._home.api_key}")
        return {
            "model": serves[args.name],
            "served_name": args.name,
            "adapters": {name: ref for name, ref in serves.items() if name != args.name},
            "url": f"{info.api_url}/v1",
            "key_file": str(self._home.api_key),
        }

    def stop_serving(self, name: str) -> None:
        """Serve a deployment no more."""
        from jobs.serve_model import local_api

        with local_api(connect(self._home), self._home) as api:
            api.delete(f"deployments/{name}")

    def client(self) -> ChatClient:
        """A client of the HTTP API of the running application."""
        return served_client(self._home)

    def versions(self, kind: Kind) -> list[Version]:
        """All versions of a kind, oldest first."""
        return self._facts.versions(kind)

    def _run(
        self, kind: str, config: C, identity: Identity[C], describe: Callable[[Result], str]
    ) -> Result:
        started_s = time.monotonic()
        config = pinned(config, self._facts)
        run_id = run_id_of(kind, config, identity(config, self._facts, self._store))
        known = known_run(self._facts, run_id)
        is_known = known is not None and is_finished(known, self._facts, self._store)
        if known is not None and known.phase == "succeeded" and not is_known:
            self._progress.line(f"  made again: {damage_of(known, self._facts, self._store)}")
        result = dict(known.result or {}) if known and is_known else self._do(kind, config, run_id)
        if is_known or kind != "prepare":  # a build has shown its own stages
            said = f"{describe(result)}{' (finished before)' if is_known else ''}"
            self._progress.stage(kind, time.monotonic() - started_s, said)
        return result

    def _do(self, kind: str, config: Frozen, run_id: str, folder: Path | None = None) -> Result:
        info = _connected(self._home)
        if info is not None:
            return self._run_job(kind, config, run_id, info, folder)
        self._progress.line("  the application is not up: working in this process")
        with chdir(folder) if folder else nullcontext():
            return work_here(kind, config, run_id, self._home, self._progress)

    def _run_job(
        self, kind: str, config: Frozen, run_id: str, info: ClusterInfo, folder: Path | None
    ) -> Result:
        jobs = JobClient.of(info, self._home)
        after = last_seq(self._facts, run_id)
        is_submitted = False
        try:
            submit(self._home, jobs, kind, config, run_id, folder)
            is_submitted, watch = True, JobWatch(jobs, run_id)
            return dict(follow(run_id, after, self._facts, watch, self._progress).result or {})
        except KeyboardInterrupt:
            if is_submitted and not self._stops_jobs:
                raise _unwatched(run_id) from None
            self._progress.line("  stopping; what is finished is kept")
            _stop(jobs, run_id)
            raise StoppedError(
                f"{run_id} was stopped", hint="the same command goes on where it was"
            ) from None
        except MulmError:
            self._note_death(jobs, run_id)
            raise

    def _note_death(self, jobs: JobClient, run_id: str) -> None:
        """A process that was killed could not say so itself."""
        run = known_run(self._facts, run_id)
        if run is None or run.is_resting or is_held(self._home, run_id):
            return
        job = jobs.newest(run_id)
        if job is None or not job.is_living:
            error = lost_run_error(run_id, job)
            told = {"code": error.code, "message": error.message, "hint": error.hint}
            write_fact(self._home, "set_phase", run_id, "failed", error=told)


def served_client(home: Home, for_key: str | None = None) -> ChatClient:
    """A client of the HTTP API of the running application, perhaps for another key than the first.

    Raises:
        NotRunningError: it is not up.
    """
    from serve_app.keys import read_first_key

    info = connect(home)
    return ChatClient(info.api_url, read_first_key(home), trust_of(info), for_key)


def _connected(home: Home) -> ClusterInfo | None:
    try:
        return connect(home)
    except NotRunningError:
        return None


def _unwatched(run_id: str) -> StoppedError:
    hint = f"`mulm runs watch {run_id}` shows it again, `mulm runs pause {run_id}` stops it"
    return StoppedError(f"{run_id} goes on, unwatched", hint=hint)


def _stop(jobs: JobClient, run_id: str) -> None:
    """Stop the job of a run, also one that was only just submitted, and wait for its end."""
    deadline_s = time.monotonic() + _APPEAR_TIMEOUT_S
    while jobs.newest(run_id) is None and time.monotonic() < deadline_s:
        time.sleep(0.2)
    if jobs.newest(run_id) is not None:
        jobs.stop(run_id)
        jobs.wait(run_id, _STOP_TIMEOUT_S)
