"""The adapters that a deployment serves: which versions they are now, and whether they fit.

Called by the ingress, by engines and by `mulm serve`, each for itself; needs no torch. Invariant:
from the same facts all of them choose the same.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mulm.errors import ConflictError
from mulm.facts import Facts
from mulm.manifest import Manifest
from mulm.model.adapter_version import require_fit
from mulm.refs import parse_ref
from mulm.store import Store
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChosenAdapter:
    """A version that has an adapter, under the name that clients use."""

    name: str
    ref: str
    id: str
    """Of the version; the engine knows the adapter by it."""
    created_s: float
    asked_ref: str = ""
    problem: str = ""
    """Why the model that is served now cannot have it; empty where it can."""

    def require_usable(self) -> None:
        """Raise ConflictError where it does not fit what is served now."""
        if self.problem:
            hint = "serve the model that it was trained on, or train it on this one"
            raise ConflictError(self.problem, hint=hint, param="model")


def choose_adapters(
    args: AppArgs, base: Manifest, store: Store, facts: Facts
) -> tuple[ChosenAdapter, ...]:
    """What the references of `args.adapters` mean now, in order.

    One that does not fit ends a deployment of a pinned model, which then never worked. Beside a
    model that is followed by an alias it has a `problem`, since the model is served all the same.

    Raises:
        NotFoundError: there is no such version.
        ConflictError: one does not fit a pinned model.
    """
    return tuple(_choose(args, name, base, store, facts) for name in args.adapters)


def _choose(args: AppArgs, name: str, base: Manifest, store: Store, facts: Facts) -> ChosenAdapter:
    asked = args.adapters[name]
    version = facts.resolve("model", parse_ref(asked))
    problem = ""
    try:
        manifest = store.load(version.manifest_id)
        require_fit(store, manifest, base, name=version.ref, beside=str(args.model))
    except ConflictError as error:
        if args.ref.alias is None:
            raise
        _log.warning("adapter does not fit name=%s reason=%s", name, error.message)
        problem = error.message
    return ChosenAdapter(name, version.ref, version.manifest_id, version.created_s, asked, problem)
