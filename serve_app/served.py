"""A model as far as HTTP needs to know it: the light half, beside the engine's client.

Made by whoever follows a deployment, swapped when another model takes over. Needs no torch.
Invariant: one request uses one `Served` from its first to its last byte.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from mulm.data.tokenizer import Tokenizer
from mulm.facts import Facts
from mulm.store import Store
from serve_app.chosen_adapter import ChosenAdapter, choose_adapters
from serve_app.engine_client import EngineClient
from serve_app.settings import AppArgs


@dataclass(frozen=True, slots=True)
class Served:
    """A model as far as HTTP needs to know it."""

    name: str
    ref: str
    model_id: str
    created_s: float
    tokenizer: Tokenizer
    max_seq_len: int
    engine: EngineClient = field(repr=False)
    """The way to those that generate with it."""
    request_timeout_s: float = 600.0
    asked_ref: str = ""
    """What was to be served, perhaps by an alias."""
    adapters: tuple[ChosenAdapter, ...] = ()
    """What can stand beside the model."""
    adapter_id: str | None = None
    """Which of them does, where it is one that is asked."""
    base: str | None = None
    """The model's own name then."""

    @property
    def fingerprint(self) -> str:
        """Tells one set of weights from all others."""
        return self.model_id if self.adapter_id is None else f"{self.model_id}+{self.adapter_id}"

    @property
    def callable_as(self) -> frozenset[str]:
        """Whatever clients may call it: its name, its references, the id of what has that name."""
        return frozenset((self.name, self.ref, self.asked_ref, self.adapter_id or self.model_id))

    @property
    def adapter_names(self) -> frozenset[str]:
        """What clients call its adapters."""
        return frozenset(each.name for each in self.adapters)

    @property
    def usable(self) -> tuple[Served, ...]:
        """All that clients can ask: the model, and it with each of its adapters that fit."""
        return (self, *(self.beside(each) for each in self.adapters if not each.problem))

    def beside(self, adapter: ChosenAdapter) -> Served:
        """The same model with an adapter. Raises ConflictError where that does not fit."""
        adapter.require_usable()
        return replace(
            self, name=adapter.name, ref=adapter.ref, asked_ref=adapter.asked_ref,
            created_s=adapter.created_s, adapter_id=adapter.id, base=self.name,
        )  # fmt: skip


def open_served(args: AppArgs, store: Store, facts: Facts, engine: EngineClient) -> Served:
    """Read what HTTP needs of a model; needs no torch.

    Raises:
        NotFoundError: no such model or adapter.
        ConflictError: an adapter does not fit.
        TokenizerMismatchError: its tokenizer is not the one it was trained with.
    """
    version = facts.resolve("model", args.ref)
    manifest = store.load(version.manifest_id)
    tokenizer = Tokenizer.from_bytes(store.read(manifest.blob("tokenizer.json")))
    tokenizer.require(manifest.tokenizer_fingerprint, f"the model {version.ref}")
    window = int(json.loads(store.read(manifest.blob("config.json")))["max_seq_len"])
    return Served(
        name=args.name,
        ref=version.ref,
        model_id=manifest.id,
        created_s=version.created_s,
        tokenizer=tokenizer,
        max_seq_len=min(window, args.max_seq_len or window),
        engine=engine,
        request_timeout_s=args.request_timeout_s,
        asked_ref=str(args.ref),
        adapters=choose_adapters(args, manifest, store, facts),
    )
