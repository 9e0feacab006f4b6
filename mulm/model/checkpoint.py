"""Checkpoints: folders from which training resumes.

Called by the training loop. Invariants: a checkpoint folder either has its name and is whole, or
does not exist; every file is checked against its SHA-256 when it is read; tensors are stored as
safetensors, so reading runs no code.

    step-00000400/
      tensors.safetensors   weights, optimizer state
      state.json            everything else
      manifest.json         SHA-256 and size of both
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from mulm.atomic import atomic_file, make_folder, naming_full_disk, sync_folder, write_atomic
from mulm.checkpoint_files import MANIFEST, STATE, TENSORS
from mulm.checkpoint_files import checkpoints as checkpoints
from mulm.checkpoint_files import prune_checkpoints as prune_checkpoints
from mulm.checkpoint_files import step_of as step_of
from mulm.config import canonical_json
from mulm.errors import ConfigError, CorruptError
from mulm.model.weights import read_tensors, tensors_stream

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read back from a checkpoint folder."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write one checkpoint under `folder`, whole or not at all; returns its path.

    A checkpoint of that step that exists already is kept: training is deterministic.

    Raises:
        NoSpaceError: the disk is full; nothing half-written keeps a name.
    """
    target = folder / f"step-{step:08d}"
    if target.exists():
        return target
    make_folder(folder)
    partial = folder / f".{target.name}.{secrets.token_hex(4)}.tmp"
    pieces: dict[str, Iterable[bytes]] = {
        TENSORS: tensors_stream(tensors),
        STATE: [canonical_json(dict(state))],
    }
    try:
        with naming_full_disk(folder):
            sums = {name: _write(partial / name, content) for name, content in pieces.items()}
            manifest = {"schema_version": SCHEMA_VERSION, "step": step, "files": sums}
            write_atomic(partial / MANIFEST, canonical_json(manifest))
            partial.rename(target)
            sync_folder(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint back, checked.

    Raises:
        CorruptError: a file is missing or does not match its checksum; the hint names the
            checkpoint before it, if there is one.
        ConfigError: it was written in a format that this code does not know.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        _check_format(path, manifest["schema_version"])
        contents = {name: (path / name).read_bytes() for name in (TENSORS, STATE)}
        for name, content in contents.items():
            if sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
                raise _corrupt(path, name)
        step, state = int(manifest["step"]), json.loads(contents[STATE])
        if path.name != f"step-{step:08d}":
            raise _corrupt(path, MANIFEST)
    except FileNotFoundError as error:
        raise _corrupt(path, Path(str(error.filename)).name) from None
    except (ValueError, KeyError, TypeError):
        raise _corrupt(path, MANIFEST) from None
    return Checkpoint(step, read_tensors(contents[TENSORS]), state)


def read_state(path: Path) -> dict[str, Any] | None:
    """A checkpoint's `state.json` alone, unchecked; None where it cannot be read."""
    try:
        state = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint under `folder`, or None where there is none.

    One that its writer removes meanwhile, as there is a newer one, is not taken for a damaged one.

    Raises:
        CorruptError: it is damaged. Older ones are never taken silently.
    """
    while paths := checkpoints(folder):
        try:
            return load_checkpoint(paths[-1])
        except CorruptError:
            if paths[-1] in checkpoints(folder):
                raise
    return None


def _write(path: Path, pieces: Iterable[bytes]) -> dict[str, Any]:
    """Write a file and describe it; the pieces are never in memory together."""
    checksum, size_bytes = sha256(), 0
    with atomic_file(path) as file:
        for piece in pieces:
            file.write(piece)
            checksum.update(piece)
            size_bytes += len(piece)
    return {"sha256": checksum.hexdigest(), "size_bytes": size_bytes}


def _check_format(path: Path, version: object) -> None:
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"the checkpoint {path.name} has format {version!r}, this code reads {SCHEMA_VERSION}",
            hint="go on with the version of µLM that wrote it, or train under a new run id",
        )


def _corrupt(path: Path, name: str) -> CorruptError:
    older = [p.name for p in checkpoints(path.parent) if p.name < path.name]
    instead = f"; {older[-1]} exists before it" if older else ""
    return CorruptError(
        f"the checkpoint {path.name} is damaged: {name!r} does not match its checksum",
        hint=f"delete the folder {str(path)!r} and run the same command again{instead}",
        step=path.name,
    )
