"""Models in the store: weights, shape and tokenizer as one version.

Written at the end of training, read by the engine host and the evaluation. Invariant: what is read
back was checked against its SHA-256 and fits its shape; reading runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mulm import __version__
from mulm.config import canonical_json, parse_config
from mulm.errors import ConflictError
from mulm.manifest import BlobEntry, Manifest
from mulm.model.adapter import Adapter
from mulm.model.adapter_version import ADAPTER
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.weights import load_file, read_tensors, tensors_to_bytes
from mulm.store import Store

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
_QUANTIZATION = "quantization.json"


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
    adapter: Adapter | None = None,
) -> Manifest:
    """Put a model with its tokenizer into the store; the same model again writes nothing.

    `config` is the resolved training configuration, `parents` what the model was made from
    by role, and `counts` numbers worth knowing, such as steps and tokens. `adapter` is what was
    merged into the weights, kept by itself too.
    """
    files = {
        CONFIG: canonical_json(model.config.to_stored()),
        WEIGHTS: tensors_to_bytes(model.state_dict()),
        TOKENIZER: tokenizer_json,
    }
    if isinstance(model, QuantizedMicroLM):
        files[_QUANTIZATION] = canonical_json(model.quantization.model_dump())
    if adapter is not None:
        files[ADAPTER] = tensors_to_bytes(adapter.tensors())
    return save_version(
        store,
        model.config,
        [store.put(name, content) for name, content in files.items()],
        tokenizer_fingerprint,
        config=config,
        parents=parents,
        licences=licences,
        counts=counts,
    )


def save_version(
    store: Store,
    shape: MicroLMConfig,
    blobs: Sequence[BlobEntry],
    tokenizer_fingerprint: str,
    *,
    config: Mapping[str, Any],
    parents: Mapping[str, str],
    licences: tuple[str, ...] = (),
    counts: Mapping[str, int | float] | None = None,
) -> Manifest:
    """The manifest over files that are in the store already; see `store_model`."""
    manifest = Manifest(
        kind="model",
        code_version=__version__,
        config=dict(config),
        parents=dict(parents),
        tokenizer_fingerprint=tokenizer_fingerprint,
        licences=licences,
        counts={"parameters": shape.n_parameters, **(counts or {})},
        blobs=tuple(blobs),
    )
    store.save(manifest)
    return manifest


def load_model(
    store: Store,
    manifest: Manifest,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MicroLM:
    """A model from the store, in evaluation mode; a `QuantizedMicroLM` where it is one.

    Weights are read into place: beside the model there is memory for one matrix.

    Raises:
        CorruptError: a file does not match its checksum, or the weights not their config.
    """
    config, quantization = model_config(store, manifest), model_quantization(store, manifest)
    if quantization:
        model: MicroLM = QuantizedMicroLM(config, quantization, dtype, device)
    else:
        with torch.device("meta"):
            model = MicroLM(config).to(dtype)
        model.to_empty(device=device)
        model.restore_tables()
    path = store.path(manifest.blob(WEIGHTS))
    load_file(path, model.state_dict(), manifest.id)
    return model.eval().requires_grad_(False)


def load_adapter(store: Store, manifest: Manifest) -> Adapter:
    """The adapter of a version that has one (`mulm.model.adapter_version`), on the CPU.

    Raises:
        CorruptError: the file does not match its checksum, or is none.
    """
    return Adapter.of_tensors(read_tensors(store.read(manifest.blob(ADAPTER))))


def load_ready_model(
    store: Store,
    manifest: Manifest,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MicroLM:
    """`load_model` for serving and evaluation: quantised matrices are packed where that is faster.

    Such a model computes alike in both; it cannot be stored or moved.
    """
    model = load_model(store, manifest, device, dtype)
    if isinstance(model, QuantizedMicroLM):
        model.pack()
    return model


def model_config(store: Store, manifest: Manifest) -> MicroLMConfig:
    """The shape of a stored model."""
    return parse_config(MicroLMConfig, json.loads(store.read(manifest.blob(CONFIG))))


def require_whole(store: Store, manifest: Manifest, what: str) -> None:
    """For what needs a model's weights as they were trained.

    Raises:
        ConflictError: they are quantised; `what` is how the user calls the model.
    """
    quantization = model_quantization(store, manifest)
    if quantization:
        raise ConflictError(
            f"{what} is quantised ({quantization.linear}), and this needs whole weights",
            hint="take the model that it was made from: `mulm model show` names it",
        )


def model_quantization(store: Store, manifest: Manifest) -> Quantization | None:
    """How a stored model's matrices are quantised; None where they are not."""
    entries = [entry for entry in manifest.blobs if entry.name == _QUANTIZATION]
    return parse_config(Quantization, json.loads(store.read(entries[0]))) if entries else None
