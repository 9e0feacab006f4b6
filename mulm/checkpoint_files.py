"""Checkpoints as files: which a run has, what each is made of, which stay. Loads no torch.

Used by `mulm.model.checkpoint`, which knows what is in them, and by what carries them between
machines. Invariant: a manifest names all files of its checkpoint with their SHA-256 and size.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mulm.checksum import hash_file
from mulm.errors import CorruptError

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
FILES = (TENSORS, STATE)
MANIFEST_LIMIT_BYTES = 64 << 10
_HINT = "the machine that wrote it may run another version of µLM"


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """What a manifest says: the step, and hash and size of each file; `content` is its bytes."""

    step: int
    content: bytes
    files: Mapping[str, tuple[str, int]]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"step-{self.step:08d}"


def parse_files(content: bytes) -> CheckpointFiles:
    """Read a manifest, which may come from another machine.

    Raises:
        CorruptError: it is none.
    """
    try:
        if len(content) > MANIFEST_LIMIT_BYTES:
            raise ValueError
        values = json.loads(content)
        step, files = values["step"], values["files"]
        found = {name: (files[name]["sha256"], files[name]["size_bytes"]) for name in files}
        if not _is_sound(step, found):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise CorruptError("this is no manifest of a checkpoint", hint=_HINT) from None
    return CheckpointFiles(step, content, found)


def read_files(path: Path) -> CheckpointFiles | None:
    """The manifest of a checkpoint's folder; None where there is none to read."""
    try:
        found = parse_files((path / MANIFEST).read_bytes())
    except (OSError, CorruptError):
        return None
    return found if found.name == path.name else None


def is_whole(path: Path, expected: CheckpointFiles) -> bool:
    """Whether a folder holds exactly that checkpoint, every byte of it."""
    found = read_files(path)
    if found is None or found.content != expected.content:
        return False
    files = ((path / name, sha256) for name, (sha256, _) in expected.files.items())
    return all(file.exists() and hash_file(file) == sha256 for file, sha256 in files)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints under `folder`, oldest first, unread."""
    return sorted(folder.glob("step-*")) if folder.exists() else []


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix("step-"))


def prune_checkpoints(folder: Path, keep: int, spared_step: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints and that of `spared_step`.

    What a killed writer left behind goes too.
    """
    for path in checkpoints(folder)[: -max(1, keep)]:
        if step_of(path) != spared_step:
            remove_checkpoint(path)
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def remove_checkpoint(path: Path) -> None:
    """Delete one, so that at no moment half of it has its name."""
    doomed = path.rename(path.with_name(f".{path.name}.old.tmp"))
    shutil.rmtree(doomed)


def _is_sound(step: object, files: Mapping[str, tuple[object, object]]) -> bool:
    return (
        isinstance(step, int)
        and 0 <= step < 10**12
        and sorted(files) == sorted(FILES)
        and all(re.fullmatch(r"[0-9a-f]{64}", str(sha256)) for sha256, _ in files.values())
        and all(isinstance(size, int) and size >= 0 for _, size in files.values())
    )
