"""Starts runs as jobs of the cluster: a config is made one run, whoever gives it.

Used by the HTTP API, and by the command line for the job itself. Invariants: the id is what every
other way to start the same run gives it; a run that has succeeded is not done again while
what it made is there, and one that is under way is not started twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from actors.job_client import JobClient
from mulm.atomic import write_atomic
from mulm.config import Frozen, canonical_json, load_config
from mulm.data.recipe import Recipe
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.bundled import CORPORA, SCHEME
from mulm.data.sources.registry import SOURCES
from mulm.data.sources.remote import is_http
from mulm.errors import ConfigError, ConflictError, NotFoundError, nearest
from mulm.eval.config import EvaluateConfig
from mulm.facts import Facts
from mulm.home import Home
from mulm.model.exchange_config import ImportConfig
from mulm.records import RESTING, Claim
from mulm.runs.continued import continued_config
from mulm.runs.identity import IDENTITIES, pinned, run_id_of
from mulm.runs.kinds import SCHEMAS
from mulm.runs.made import gone
from mulm.runs.standing import Standing
from mulm.runs.transitions import may_resume
from mulm.store import Store

_RESUMED = frozenset(SCHEMAS) - {"prepare", "evaluate"}
"""Kinds that read versions and uploaded files: nothing that they read can have changed."""
_SHOWN_CHARS = 64


@dataclass(frozen=True, slots=True)
class Started:
    """A run, and whether a job was begun for it."""

    run_id: str
    is_begun: bool


class RunStarter:
    """Starts runs of one installation.

    Args:
        home: Where configs are written for the jobs.
        facts: For reading, and for noting a run before its job begins.
        store: Where versions lie.
        jobs: Of the running application.
        source_urls: Beginnings of addresses from which clients may have data fetched.
    """

    def __init__(
        self,
        home: Home,
        facts: Facts,
        store: Store,
        jobs: JobClient,
        source_urls: Sequence[str] = (),
    ) -> None:
        self._home, self._facts, self._store, self._jobs = home, facts, store, jobs
        self._source_urls = tuple(source_urls)

    def start(self, kind: str, values: Mapping[str, Any], claim: Claim | None = None) -> Started:
        """Begin a run, unless it was done or is under way.

        Args:
            kind: Of the run.
            values: Its config.
            claim: Under which the run is noted.

        Raises:
            ConfigError, UnknownNameError: the config does not fit, or names files of this machine.
            NotFoundError: a version that it names is not there.
        """
        config = pinned(load_config(SCHEMAS[kind], values), self._facts)
        require_no_files(config, self._facts, self._source_urls)
        run_id = run_id_of(kind, config, IDENTITIES[kind](config, self._facts, self._store))
        try:
            run = self._facts.run(run_id)
        except NotFoundError:
            run = None
        if run and run.phase == "succeeded" and gone(run, self._facts, self._store) is None:
            return Started(run_id, is_begun=False)
        if run and run.phase == "cancelled":
            raise ConflictError(
                f"{run_id} is this run, and was cancelled", hint="another seed is another run"
            )
        self._submit(run_id, kind, config, claim)
        return Started(run_id, is_begun=True)

    def start_again(self, run_id: str) -> Started:
        """Begin a run that was noted, where nobody knows whether its job has begun.

        Raises:
            NotFoundError: there is none of that id.
        """
        run = self._facts.run(run_id)
        if run.phase in ("succeeded", "cancelled"):
            return Started(run_id, is_begun=False)
        self._submit(run_id, run.kind, load_config(SCHEMAS[run.kind], run.config))
        return Started(run_id, is_begun=True)

    def go_on(
        self, found: Standing, overrides: Sequence[str] = (), *, also_cancelled: bool = False
    ) -> None:
        """Have a run go on that was paused, has failed or was lost.

        Args:
            found: The run.
            overrides: What changes that has no part in the result, as `--set` takes it.
            also_cancelled: Whether one that was cancelled may go on too.

        Raises:
            ConfigError, UnknownNameError: an override does not fit.
            ConflictError: it has ended otherwise, goes on already without the overrides, would be
                another run with them, or reads files, which may have changed.
        """
        run = found.run
        if not may_resume(found, also_cancelled=also_cancelled):
            if overrides:
                hint = "pause it first, then resume it so"
                raise ConflictError(f"{run.id} goes on already, without the changes", hint=hint)
            return
        config = continued_config(run, overrides)
        if run.kind not in _RESUMED and not _reads_uploads_only(config):
            raise ConflictError(
                f"{run.id} reads files, which may have changed",
                hint="start it again with its own config, which finds what was finished",
            )
        self._submit(run.id, run.kind, config)

    def _submit(self, run_id: str, kind: str, config: Frozen, claim: Claim | None = None) -> None:
        # What is answered is there, whatever happens.
        values = config.model_dump(mode="json")
        run = self._facts.create_run(run_id, kind, values, claim)
        if run.phase in RESTING and run.config != values:
            self._facts.set_config(run_id, values)
        submit(self._home, self._jobs, kind, config, run_id, self._home.run(run_id))


def submit(
    home: Home, jobs: JobClient, kind: str, config: Frozen, run_id: str, folder: Path | None
) -> str:
    """Begin the job of a run, its config in the run's folder; returns the job's id.

    Relative paths of the config begin in `folder`, by default in the current one.

    Raises:
        NotRunningError: the application is not up.
    """
    path = home.run(run_id) / "config.json"
    write_atomic(path, canonical_json(config.model_dump(mode="json")))
    return jobs.submit(f"jobs.{kind}", run_id, path, folder)


def require_no_files(config: Frozen, facts: Facts, source_urls: Sequence[str] = ()) -> None:
    """A client of the API has no business with files or code of the machine that serves it.

    Raises:
        ConfigError: the config names some.
    """
    if isinstance(config, EvaluateConfig) and config.data:
        raise ConfigError(
            "files of suites cannot be named over HTTP", hint="leave out data", param="config.data"
        )
    if isinstance(config, ImportConfig):
        for name, content in config.contents.items():
            if not facts.has_file(content.name, content.sha256):
                raise ConfigError("no uploaded file has this content", param=f"contents.{name}")
    if isinstance(config, Recipe):
        for number, spec in enumerate(config.sources):
            _require_safe(spec, f"sources.{number}", facts, source_urls)
        if config.decontaminate is not None:
            raise ConfigError(
                "files of evaluations cannot be named over HTTP",
                hint="leave out decontaminate",
                param="decontaminate",
            )


def _require_safe(spec: SourceSpec, where: str, facts: Facts, source_urls: Sequence[str]) -> None:
    """Uploads, bundled corpora, and files by checksum from where they may be fetched."""
    if spec.content is None and not _may_be_read(spec.path, source_urls):
        raise ConfigError(
            "this path or address cannot be named over HTTP",
            hint='upload files with `POST /v1/files` and name them: {"file": "file_..."}; or name'
            f" {_allowed(source_urls)}",
            param=f"{where}.path",
        )
    if spec.content is not None and not facts.has_file(spec.content.name, spec.content.sha256):
        raise ConfigError("no uploaded file has this content", param=f"{where}.content")
    if spec.type not in SOURCES:
        hint = nearest(spec.type[:_SHOWN_CHARS], SOURCES)
        raise ConfigError(
            f"unknown source type {spec.type[:_SHOWN_CHARS]!r}", hint=hint, param=f"{where}.type"
        )


def _may_be_read(path: str, source_urls: Sequence[str]) -> bool:
    """What is bundled is everybody's; of the network only what the operator has named."""
    if path.startswith(f"{SCHEME}://"):
        return True
    leads_up = ".." in unquote(path).replace("\\", "/").split("/")
    return is_http(path) and path.startswith(tuple(source_urls)) and not leads_up


def _allowed(source_urls: Sequence[str]) -> str:
    bundled = ", ".join(f"{SCHEME}://{name}" for name in CORPORA)
    return ", ".join((bundled, *(f"what begins with {url}" for url in source_urls)))


def _reads_uploads_only(config: Frozen) -> bool:
    """Whether all that a config names is known by its checksum."""
    return (
        isinstance(config, Recipe)
        and config.decontaminate is None
        and all(spec.content is not None and ":" not in spec.type for spec in config.sources)
    )
