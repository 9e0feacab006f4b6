"""Models in the store: weights, shape and tokenizer as one version.

Written at the end of training, read by the engine host and the evaluation. Invariant: what is read
back was checked against its SHA-256 and fits its shape; reading runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from mulm import __version__
from mulm.config import canonical_json, parse_config
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.weights import load_weights, read_tensors, tensors_to_bytes
from mulm.store import Store


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
        store.put("config.json", canonical_json(model.config.to_stored())),
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
    weights = read_tensors(store.read(manifest.blob("model.safetensors")))
    with torch.device("meta"):
        model = MicroLM(config)
    model.to_empty(device=device)
    model.restore_tables()
    load_weights(model, weights, manifest.id)
    return model.to(dtype).eval().requires_grad_(False)


def model_config(store: Store, manifest: Manifest) -> MicroLMConfig:
    """The shape of a stored model."""
    return parse_config(MicroLMConfig, json.loads(store.read(manifest.blob("config.json"))))
