"""Which versions in the store have an adapter, and which models it serves.

A version that was trained with `lora` is an ordinary model, and has its adapter by itself beside
that. Asked by the ingress, the engine host and `mulm serve`, which so agree; needs no torch.
Invariant: an adapter is served beside the model that it was trained on, or one made from that.
"""

from __future__ import annotations

import json

from mulm.config import parse_config
from mulm.errors import ConflictError, NotFoundError
from mulm.manifest import Manifest
from mulm.model.config import MicroLMConfig
from mulm.store import Store

ADAPTER = "adapter.safetensors"
"""The file with the low-rank factors, where a version has one."""

_BASE = "init_from"
_FROM_A_MODEL = (_BASE, "model")
"""Roles of the parent whose weights a model began with: trained further, or made smaller."""


def require_fit(store: Store, adapter: Manifest, base: Manifest, *, name: str, beside: str) -> None:
    """Refuse an adapter that does not belong beside a model.

    Args:
        store: Has both.
        adapter: The version that was trained with `lora`.
        base: The model that is served.
        name: What the user calls the first.
        beside: And the second.

    Raises:
        ConflictError: it has no adapter, or one of another model, shape or tokenizer.
    """
    if not any(entry.name == ADAPTER for entry in adapter.blobs):
        raise ConflictError(
            f"{name} has no adapter", hint="training with `lora` stores one beside its model"
        )
    origins = _origins(store, base)
    if adapter.id in origins:
        raise ConflictError(
            f"{beside} has the adapter of {name} in its weights already", hint="serve it as it is"
        )
    trained_on = adapter.parents.get(_BASE, "")
    if trained_on not in origins:
        raise ConflictError(
            f"the adapter of {name} is of another model than {beside}",
            hint=f"it was trained on {trained_on}; `mulm model show` names what models come from",
        )
    if _matrices(store, adapter) != _matrices(store, base):
        raise ConflictError(
            f"the adapter of {name} is for another shape than that of {beside}",
            hint="a pruned model has other matrices: train an adapter on it",
        )
    if adapter.tokenizer_fingerprint != base.tokenizer_fingerprint:
        raise ConflictError(f"the adapter of {name} has another tokenizer than {beside}")


def _origins(store: Store, model: Manifest) -> set[str]:
    """The ids of a model and of those whose weights it goes back to; also of some that are gone."""
    found = {model.id}
    waiting = [model]
    while waiting:
        parents = waiting.pop().parents
        for parent_id in {parents[role] for role in _FROM_A_MODEL if role in parents} - found:
            found.add(parent_id)
            try:
                waiting.append(store.load(parent_id))
            except NotFoundError:
                continue
    return found


def _matrices(store: Store, model: Manifest) -> list[tuple[int, int]]:
    """Rows and columns of all that adapters can stand beside."""
    shape = parse_config(MicroLMConfig, json.loads(store.read(model.blob("config.json"))))
    return shape.n_layers * shape.block_matrices
