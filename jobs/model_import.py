"""Take a model of others in: `python -m jobs.model_import --config FILE`, run as a Ray job.

From a hub, or of files that a client has uploaded; never of files of this machine. Invariant: it is
judged as `mulm model import` judges it, and the same files are the same versions.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.entry import JobContext, run_job
from jobs.import_model import Source, fetch_from_hub, store_source
from mulm.atomic import make_folder
from mulm.errors import ConflictError
from mulm.manifest import BlobEntry
from mulm.model.exchange_config import ImportConfig
from mulm.model.hf_hub import Hub, parse_source
from mulm.model.hf_import import require_files
from mulm.runs.identity import import_identity

_TELL_BYTES = 64 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("model_import", arguments, ImportConfig, take_in, import_identity)


def take_in(context: JobContext, config: ImportConfig) -> dict[str, Any]:
    """Store the model and its tokenizer; returns the run's result.

    Raises:
        NotFoundError: a file, or the model on the hub, is missing.
        DataError: an architecture, tokenizer or file format that does not work here.
        AuthError, UnreachableError, DeadlineError: the hub refuses, is not there, or is silent.
        NoSpaceError: the disk is full.
    """
    folder = context.home.run(context.run_id) / "import"
    try:
        source = _fetched(context, config) if config.hub else _gathered(context, config, folder)
        made = store_source(context.store, source, config.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    refs = {
        manifest.kind: context.facts.publish(manifest.kind, config.name, manifest.id).ref
        for manifest in (made.tokenizer, made.model)
    }
    return {
        "model": refs["model"],
        "model_id": made.model.id,
        "tokenizer": refs["tokenizer"],
        "parameters": made.described.config.n_parameters,
        "licences": list(made.described.licences),
        "chat_format": made.described.tokenizer.chat_format.name,
        "chat_template": made.described.template,
    }


def _fetched(context: JobContext, config: ImportConfig) -> Source:
    assert config.hub is not None
    told_bytes: dict[str, int] = {}

    def report(file: str, done_bytes: int, size_bytes: int) -> None:
        if done_bytes - told_bytes.get(file, -_TELL_BYTES) < _TELL_BYTES < size_bytes:
            return
        told_bytes[file] = done_bytes
        context.emit("progress", stage=file, done=done_bytes, total=size_bytes, unit="B")

    repository, revision = parse_source(config.hub)
    return fetch_from_hub(Hub.from_env(os.environ), repository, revision, context.home, report)


def _gathered(context: JobContext, config: ImportConfig, folder: Path) -> Source:
    """The uploaded files under the names that they have in such a folder."""
    require_files(set(config.contents), "the uploaded files")
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt before
    make_folder(folder)
    for name, content in config.contents.items():
        entry = BlobEntry(name=name, sha256=content.sha256, size_bytes=content.size_bytes)
        _give(context.store.path(entry), folder / name)
    return Source(folder, {"kind": "upload"})


def _give(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except FileExistsError:
        raise ConflictError(f"two files are called {place.name!r} here") from None
    except OSError:  # another file system
        shutil.copyfile(path, place)


if __name__ == "__main__":
    sys.exit(main())
