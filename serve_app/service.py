"""What the routes work with: all that is served, by the names that clients use.

Made by the ingress, which adds and takes away deployments; routes get it by `ServiceDependency`.
Invariant: a name means one deployment.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends, Request

from mulm.accounts import Key
from mulm.errors import NotFoundError, NotRunningError
from serve_app.auth import ForbiddenError
from serve_app.background import Background
from serve_app.openai_api.response_store import ResponseStore
from serve_app.probe import Probe
from serve_app.served import Served

_SHOWN_CHARS = 64


class ModelNotFoundError(NotFoundError):
    """A client asked for a model that is not served."""

    code = "model_not_found"


class Serving(Protocol):
    """One deployment, as routes ask it."""

    @property
    def served(self) -> Served | None:
        """What answers under its name; None until something does."""

    def draw(self) -> Served:
        """What is to answer one request under its name."""

    async def is_ready(self) -> bool:
        """Whether an engine answers, where one is kept."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A deployment that never changes: one model and its engine."""

    served: Served

    def draw(self) -> Served:
        """As `Serving.draw`."""
        return self.served

    async def is_ready(self) -> bool:
        """As `Serving.is_ready`."""
        return await self.served.engine.is_ready()


@dataclass(slots=True)
class Service:
    """The state of one ingress replica."""

    deployments: Mapping[str, Serving] = field(default_factory=dict)
    responses: ResponseStore = field(default_factory=ResponseStore)
    background: Background = field(default_factory=Background)
    metrics_text: Callable[[], bytes] = bytes
    """What Prometheus is told; nothing where nobody counts."""
    is_ready: Probe = field(init=False)
    """Whether something answers."""

    def __post_init__(self) -> None:
        self.is_ready = Probe(self._is_ready)

    @classmethod
    def of(cls, served: Served, metrics_text: Callable[[], bytes] = bytes) -> "Service":
        """One that serves one model, for ever."""
        return cls({served.name: Fixed(served)}, metrics_text=metrics_text)

    async def _is_ready(self) -> bool:
        """A deployment that is broken does not take the others off the network."""
        found = await asyncio.gather(*(each.is_ready() for each in self.deployments.values()))
        return not found or any(found)

    def usable(self) -> list[Served]:
        """All that clients can ask: models, each followed by its adapters that fit."""
        found = [self.deployments[name].served for name in sorted(self.deployments)]
        return [each for served in found if served is not None for each in served.usable]

    def first(self, key: Key) -> Served:
        """Any model, where it does not matter which. Raises NotRunningError without one."""
        usable = self.usable_by(key)
        if not usable:
            raise NotRunningError("no model is loaded yet", hint="try again in a moment")
        return usable[0]

    def usable_by(self, key: Key) -> list[Served]:
        """All that the owner of a key can ask."""
        return [each for each in self.usable() if key.may_ask(each.name)]

    def model(self, name: str, key: Key) -> Served:
        """What is served under that name, reference or id, for that key; an adapter's too.

        Raises:
            ModelNotFoundError: nothing is.
            NotRunningError: it is not loaded yet.
            ForbiddenError: the key is for others.
            ConflictError: an adapter that does not fit what is served now.
        """
        served = self._named(name, key)
        if not key.may_ask(served.name):
            raise ForbiddenError(
                f"the key {key.name!r} may not ask {served.name!r}",
                hint=f"it may ask: {', '.join(key.models)}",
                param="model",
            )
        return served

    def _named(self, name: str, key: Key) -> Served:
        if (known := self.deployments.get(name)) is not None:
            return known.draw()
        found = [each.served for each in self.deployments.values() if each.served is not None]
        # One model can have two names: of those, one that the key is for.
        found.sort(key=lambda served: not key.may_ask(served.name))
        # Names come first: one adapter's reference can be another's name.
        for served in found:
            for each in served.adapters:
                if name == each.name:
                    return served.beside(each)
        for served in found:
            if name in (served.ref, served.asked_ref, served.model_id):
                return served
        meant = [
            (served, each)
            for served in found
            for each in served.adapters
            if name in (each.ref, each.asked_ref, each.id)
        ]
        for served, each in sorted(meant, key=lambda pair: not key.may_ask(pair[1].name)):
            return served.beside(each)
        shown, names = name[:_SHOWN_CHARS], ", ".join(each.name for each in self.usable_by(key))
        hint = f"served: {names}" if names else "nothing is served: `mulm serve` does it"
        raise ModelNotFoundError(f"no model {shown!r} is served", hint=hint, param="model")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(_service)]
