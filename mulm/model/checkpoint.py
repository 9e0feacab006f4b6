"""Weights on disk: models in the store, and checkpoints from which training resumes.

Called by the training loop, the engine host and the evaluation. Invariants: a checkpoint
folder either has its name and is whole, or does not exist; every file is checked against its
SHA-256 when it is read; tensors are stored as safetensors, so reading runs no code.

    step-00000400/
      tensors.safetensors   weights, optimizer state
      state.json            everything else
      manifest.json         SHA-256 and size of both
"""

from __future__ import annotations

import ctypes
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from mulm import __version__
from mulm.atomic import sync_folder, write_atomic
from mulm.config import canonical_json, parse_config
from mulm.errors import CorruptError
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.store import Store

_FORMAT_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read back from a checkpoint folder."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def store_model(
    store: Store,
    model: MicroLM,
    tokenizer_json: bytes,
    tokenizer_fingerprint: str,
    *,
    config: Mapping[str, Any],
    parents: Mapping[str, str],
    licences: tuple[str, ...] = (),
    counts: Mapping[str, int | float] | None = None,
) -> Manifest:
    """Put a model with its tokenizer into the store; the same model again writes nothing.

    `config` is the resolved training configuration, `parents` what the model was made from
    by role, and `counts` numbers worth knowing, such as steps and tokens.
    """
    blobs = (
        store.put("config.json", canonical_json(model.config.model_dump())),
        store.put("model.safetensors", tensors_to_bytes(model.state_dict())),
        store.put("tokenizer.json", tokenizer_json),
    )
    manifest = Manifest(
        kind="model",
        code_version=__version__,
        config=dict(config),
        parents=dict(parents),
        tokenizer_fingerprint=tokenizer_fingerprint,
        licences=licences,
        counts={"parameters": model.config.n_parameters, **(counts or {})},
        blobs=blobs,
    )
    store.save(manifest)
    return manifest


def load_model(
    store: Store,
    manifest: Manifest,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MicroLM:
    """A model from the store, in evaluation mode.

    Raises:
        CorruptError: a file does not match its checksum, or the weights not their config.
    """
    config = model_config(store, manifest)
    weights = load_safetensors(store.read(manifest.blob("model.safetensors")))
    with torch.device("meta"):
        model = MicroLM(config)
    model.to_empty(device=device)
    model.restore_tables()
    load_weights(model, weights, manifest.id)
    return model.to(dtype).eval().requires_grad_(False)


def model_config(store: Store, manifest: Manifest) -> MicroLMConfig:
    """The shape of a stored model."""
    return parse_config(MicroLMConfig, json.loads(store.read(manifest.blob("config.json"))))


def load_weights(model: MicroLM, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy weights by name into a model of the same shape.

    Raises:
        CorruptError: names or shapes differ.
    """
    have = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if have != want:
        wrong = sorted(
            name for name in have.keys() | want.keys() if have.get(name) != want.get(name)
        )
        raise CorruptError(f"the weights of {what} do not fit their config: {wrong[0]!r}")
    model.load_state_dict(dict(weights))


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
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{target.name}.{secrets.token_hex(4)}.tmp"
    files = {_TENSORS: tensors_to_bytes(tensors), _STATE: canonical_json(dict(state))}
    sums = {
        name: {"sha256": sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in files.items()
    }
    files[_MANIFEST] = canonical_json({"schema_version": 1, "step": step, "files": sums})
    try:
        for name, content in files.items():
            write_atomic(partial / name, content)
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
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        contents = {name: (path / name).read_bytes() for name in (_TENSORS, _STATE)}
        for name, content in contents.items():
            if sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
                raise _corrupt(path, name)
        step, state = int(manifest["step"]), json.loads(contents[_STATE])
    except FileNotFoundError as error:
        raise _corrupt(path, Path(str(error.filename)).name) from None
    except (ValueError, KeyError, TypeError):
        raise _corrupt(path, _MANIFEST) from None
    return Checkpoint(step, load_safetensors(contents[_TENSORS]), state)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints under `folder`, oldest first, unread."""
    return sorted(folder.glob("step-*")) if folder.exists() else []


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint under `folder`, or None where there is none.

    Raises:
        CorruptError: it is damaged. Older ones are never taken silently.
    """
    paths = checkpoints(folder)
    return load_checkpoint(paths[-1]) if paths else None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what a killed writer left behind."""
    for path in checkpoints(folder)[: -max(1, keep)]:
        doomed = path.rename(path.with_name(f".{path.name}.old.tmp"))
        shutil.rmtree(doomed)
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format, names sorted.

    Written by hand because the library's writer needs numpy: eight bytes of header length,
    a JSON header, the raw little-endian data.
    """
    flat = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in flat.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _FORMAT_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = [ctypes.string_at(tensor.data_ptr(), tensor.nbytes) for tensor in flat.values()]
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


def _corrupt(path: Path, name: str) -> CorruptError:
    older = [p.name for p in checkpoints(path.parent) if p.name < path.name]
    instead = f"; {older[-1]} exists before it" if older else ""
    return CorruptError(
        f"the checkpoint {path.name} is damaged: {name!r} does not match its checksum",
        hint=f"delete the folder {str(path)!r} and run the same command again{instead}",
        step=path.name,
    )
