"""What `mulm serve` is to put behind HTTP: settings with pinned references that fit together.

Called by the journey. Invariant: what is wrong with a model, a window, a draft or an adapter is
told here, not by a replica that dies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mulm.config import load_config
from mulm.errors import ConfigError
from mulm.facts import Facts, Version
from mulm.manifest import Manifest
from mulm.model.adapter_version import ADAPTER
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


def plan_serving(
    store: Store,
    facts: Facts,
    model: str,
    adapters: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> ServePlan:
    """Settle what is served.

    Args:
        store: Where the versions lie; those that are not here are fetched.
        facts: What references mean.
        model: A reference.
        adapters: References, or `name=reference` each.
        values: Fields of `AppArgs`; None leaves one at its default.
        overrides: More of them, as `key=value`.

    Raises:
        NotFoundError: there is no such version.
        CorruptError: a file of one is damaged.
        ConfigError: a setting is impossible, or the window longer than the model's.
        ConflictError: an adapter does not fit the model.
        TokenizerMismatchError: a draft does not.
    """
    given = {name: value for name, value in (values or {}).items() if value is not None}
    given |= {"model": model, "adapters": adapters_by_name(adapters)}
    args = load_config(AppArgs, given, overrides)
    named = {name: pinned(facts, ref) for name, ref in args.adapters.items()}
    args = args.model_copy(update={"model": pinned(facts, str(args.model)), "adapters": named})
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


def adapters_by_name(given: Iterable[str]) -> dict[str, str]:
    """References by the names that clients use: `other=poems@2`, or `poems@2` under its own name.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, ref = text.partition("=")
        if not equals:
            name, ref = parse_ref(text).name, text
        if name in found:
            raise ConfigError(
                f"two adapters are to be served as {name!r}", hint="give one a name: name=ref"
            )
        found[name] = ref
    return found


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
