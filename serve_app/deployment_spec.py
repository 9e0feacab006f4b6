"""What the ledger keeps of a deployment: settings of its engines, and perhaps a canary.

Written by the control API, read by the ingress. Invariant: references in it are pinned or aliases,
so that all who read it mean the same.
"""

from __future__ import annotations

from mulm.config import Frozen, parse_config
from mulm.errors import MulmError
from mulm.records import Deployment
from serve_app.applications import engine_application
from serve_app.canary import Canary
from serve_app.settings import AppArgs


class DeploymentSpec(Frozen):
    """One deployment as it is wanted."""

    args: AppArgs
    canary: Canary | None = None

    @property
    def name(self) -> str:
        """What clients call it, and the ledger too."""
        return self.args.name

    @property
    def names(self) -> frozenset[str]:
        """All names under which clients find it."""
        return frozenset({self.name, *self.args.adapters})

    @property
    def canary_args(self) -> AppArgs | None:
        """The settings of the canary's engines; adapters stay with the model itself."""
        if self.canary is None:
            return None
        changed = {"model": self.canary.model, "served_name": self.name, "adapters": {}}
        return self.args.model_copy(update=changed)

    @property
    def engines(self) -> dict[str, AppArgs]:
        """By Serve's application, the settings of its engines."""
        found = {engine_application(self.name): self.args}
        if self.canary_args is not None:
            found[engine_application(self.name, is_canary=True)] = self.canary_args
        return found


def spec_of(deployment: Deployment) -> DeploymentSpec:
    """What a deployment that is served is made of."""
    assert deployment.spec is not None
    return parse_config(DeploymentSpec, deployment.spec)


def unread(deployment: Deployment) -> str:
    """Why a row cannot be served, as one of another version of µLM; empty where it can."""
    try:
        spec_of(deployment)
    except MulmError as error:
        return error.message
    return ""
