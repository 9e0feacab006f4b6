"""Settings that are checked against the store before anything is deployed.

Used by `mulm serve`. Invariant: a mistake is told here, by its name, and not by a replica that
dies. Light floor: no torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mulm.errors import ConfigError
from mulm.facts import Facts, Version
from mulm.manifest import Manifest
from mulm.refs import parse_ref
from mulm.store import Store
from serve_app.draft import require_fit
from serve_app.settings import AppArgs


def require_window(asked: int | None, version: Version, shape: Mapping[str, Any]) -> None:
    """Refuse a window that the model does not have.

    Raises:
        ConfigError: it is larger.
    """
    window = int(shape["max_seq_len"])
    if asked is not None and asked > window:
        raise ConfigError(
            f"max_seq_len {asked} is more than {version.ref} can read",
            hint=f"its window is {window} tokens",
        )


def with_pinned_draft(args: AppArgs, model: Manifest, store: Store, facts: Facts) -> AppArgs:
    """The same, with a draft that is named without a version pinned to its newest.

    Raises:
        NotFoundError: no such draft.
        CorruptError: one of its files is damaged.
        TokenizerMismatchError, ConfigError: it cannot guess for this model.
    """
    if args.draft is None:
        return args
    version = facts.resolve("model", parse_ref(args.draft))
    draft = store.load(version.manifest_id)
    require_fit(args.draft, draft, model, store)
    store.paths(draft.blobs)
    is_alias = parse_ref(args.draft).alias is not None
    return args if is_alias else args.model_copy(update={"draft": version.ref})
