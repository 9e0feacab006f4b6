"""What is to be put behind HTTP: settings with pinned references that fit together.

Called by the control API for each change of a deployment. Light floor: no torch. Invariant: what is
wrong with a model, a window, a draft or an adapter is told here, not by a replica that dies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from mulm.errors import ConfigError
from mulm.facts import Facts
from mulm.manifest import Manifest
from mulm.model.adapter_version import ADAPTER
from mulm.records import Version
from mulm.refs import parse_ref
from mulm.store import Store
from serve_app.chosen_adapter import choose_adapters
from serve_app.draft import require_fit
from serve_app.settings import AppArgs


@dataclass(frozen=True, slots=True)
class ServePlan:
    """The settings, and which versions they mean now."""

    args: AppArgs
    versions: Mapping[str, str]
    """By served name, the model first: all that `/v1/models` is to list."""


def plan_serving(args: AppArgs, store: Store, facts: Facts) -> ServePlan:
    """Settle what is served.

    Args:
        args: As somebody asks for it.
        store: Where the versions lie; those that are not here are fetched.
        facts: What references mean.

    Raises:
        NotFoundError: there is no such version.
        CorruptError: a file of one is damaged.
        ConfigError: no model is named, or the window is longer than the model's.
        ConflictError: an adapter does not fit the model.
        TokenizerMismatchError: a draft does not.
    """
    named = {name: pinned(facts, ref) for name, ref in args.adapters.items()}
    args = args.model_copy(update={"model": pinned(facts, str(args.ref)), "adapters": named})
    version = facts.resolve("model", args.ref)
    manifest = store.load(version.manifest_id)
    store.paths(manifest.blobs)
    _require_window(args.max_seq_len, version, manifest, store)
    args = _with_pinned_draft(args, manifest, store, facts)
    chosen = choose_adapters(args, manifest, store, facts)
    for each in chosen:
        each.require_usable()
        store.path(store.load(each.id).blob(ADAPTER))
    return ServePlan(args, {args.name: version.ref} | {each.name: each.ref for each in chosen})


def pinned(facts: Facts, ref: str) -> str:
    """An alias is followed when it moves; a name is pinned to its newest version."""
    parsed = parse_ref(ref)
    return ref if parsed.alias is not None else facts.resolve("model", parsed).ref


def _require_window(asked: int | None, version: Version, model: Manifest, store: Store) -> None:
    window = int(json.loads(store.read(model.blob("config.json")))["max_seq_len"])
    if asked is not None and asked > window:
        raise ConfigError(
            f"max_seq_len {asked} is more than {version.ref} can read",
            hint=f"its window is {window} tokens",
        )


def _with_pinned_draft(args: AppArgs, model: Manifest, store: Store, facts: Facts) -> AppArgs:
    if args.draft is None:
        return args
    draft = store.load(facts.resolve("model", parse_ref(args.draft)).manifest_id)
    require_fit(args.draft, draft, model, store)
    store.paths(draft.blobs)
    return args.model_copy(update={"draft": pinned(facts, args.draft)})
