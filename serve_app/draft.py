"""The model that guesses for the one that is served: found by reference, fit for it or refused.

Asked by `mulm serve` before it deploys and by each replica that opens a model. Invariant: a draft
has the very tokens of the model. Light floor: no torch here.
"""

from __future__ import annotations

import json
import logging

from mulm.errors import ConfigError, MulmError, TokenizerMismatchError
from mulm.facts import Facts
from mulm.manifest import Manifest
from mulm.refs import parse_ref
from mulm.store import Store
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)


def draft_for(model: Manifest, args: AppArgs, store: Store, facts: Facts) -> Manifest | None:
    """The draft that `args` name for this model, None without one.

    An alias may come to any model, and serving follows it: there a draft that does not fit is left
    out, and the log says why.

    Raises:
        NotFoundError: no such draft.
        TokenizerMismatchError, ConfigError: as `require_fit`.
    """
    if args.draft is None:
        return None
    try:
        draft = store.load(facts.resolve("model", parse_ref(args.draft)).manifest_id)
        require_fit(args.draft, draft, model, store)
    except MulmError as error:
        if args.model is None or args.ref.alias is None:
            raise
        _log.warning("draft left out draft=%s reason=%s", args.draft, error.message)
        return None
    return draft


def require_fit(name: str, draft: Manifest, model: Manifest, store: Store) -> None:
    """Refuse a draft that cannot guess for a model.

    Raises:
        TokenizerMismatchError: it has another tokenizer.
        ConfigError: its vocabulary was filled up to another size.
    """
    if draft.tokenizer_fingerprint != model.tokenizer_fingerprint:
        raise TokenizerMismatchError(
            f"the draft {name!r} was made with the tokenizer {draft.tokenizer_fingerprint},"
            f" the model with {model.tokenizer_fingerprint}",
            hint="a draft must be trained with the model's own tokenizer",
            param="draft",
            expected=model.tokenizer_fingerprint,
            found=draft.tokenizer_fingerprint,
        )
    sizes = [json.loads(store.read(m.blob("config.json")))["vocab_size"] for m in (draft, model)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"the draft {name!r} has {sizes[0]} rows of tokens, the model {sizes[1]}",
            hint="name a draft whose vocabulary was filled up to the same size",
            param="draft",
        )
