"""Give a model out as a file: `python -m jobs.model_export --config FILE`, run as a Ray job.

The same files as `mulm model export` writes, for clients that have no disk here. Invariant: what is
written stands in the store under the run's own file; the run's folder keeps nothing of it.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.entry import JobContext, run_job
from jobs.export import ExportOrder, export_model
from jobs.made_files import publish_file
from mulm.atomic import make_folder
from mulm.model.exchange_config import ExportConfig
from mulm.model.stored import require_whole
from mulm.refs import parse_ref
from mulm.runs.identity import export_identity

PURPOSE = "model_export"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("model_export", arguments, ExportConfig, give_out, export_identity)


def give_out(context: JobContext, config: ExportConfig) -> dict[str, Any]:
    """Write a model and publish the file; returns the run's result.

    Raises:
        NotFoundError, CorruptError: the model is not there, or damaged.
        ConflictError: it is quantised.
        DataError: the format has no equal of it.
        NoSpaceError: the disk is full.
    """
    version = context.facts.resolve("model", parse_ref(config.model))
    manifest = context.store.load(version.manifest_id)
    require_whole(context.store, manifest, version.ref)
    folder = context.home.run(context.run_id) / "export"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt before
    make_folder(folder)
    stem = f"{version.name}-{version.number}"
    try:
        out = folder / (f"{stem}.gguf" if config.to == "gguf" else stem)
        order = ExportOrder.of(config.to, out, config.dtype, config.quant, None)
        export_model(context.store, version.ref, manifest, order)
        path = out if config.to == "gguf" else _packed(out)
        context.emit("log", text=f"{version.ref} as {path.name}, {path.stat().st_size:,} bytes")
        size_bytes = path.stat().st_size
        file_id = publish_file(context, config.to, path, path.name, PURPOSE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"model": version.ref, "format": config.to, "file": file_id, "size_bytes": size_bytes}


def _packed(folder: Path) -> Path:
    """The files of a folder in one, without times or owners: the same model is the same bytes."""
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as packed:
        for each in sorted(folder.iterdir()):
            member = tarfile.TarInfo(f"{folder.name}/{each.name}")
            member.size = each.stat().st_size
            with each.open("rb") as content:
                packed.addfile(member, content)
    return path


if __name__ == "__main__":
    sys.exit(main())
