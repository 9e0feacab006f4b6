"""A deployment in an ingress: its model, and the canary beside it.

Kept by `serve_app.deployments`, asked by routes through `serve_app.service`. Invariants: a request
goes to one of the two and stays there; a canary that nobody has loaded yet gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from mulm.crew import Seen
from mulm.errors import NotRunningError
from serve_app.applications import engine_application
from serve_app.canary import CountedClient, Tally, judge
from serve_app.deployment_spec import DeploymentSpec
from serve_app.engine_client import EngineClient
from serve_app.followed import Followed
from serve_app.served import Served
from serve_app.settings import AppArgs

Follow = Callable[[str, Callable[[EngineClient], EngineClient]], Followed]
"""Begins to follow an application, with something around its client."""


class Deployed:
    """One deployment.

    Args:
        name: What clients call it.
        follow: Begins to follow one of its applications.
        random: Draws who answers.
    """

    def __init__(self, name: str, follow: Follow, random: Random) -> None:
        self.name = name
        self.revision = 0
        self._follow, self._random = follow, random
        self._spec: DeploymentSpec | None = None
        self._tally, self._canary_tally = Tally(), Tally()
        self._heard: list[Seen] = []
        self.itself = self._followed(self._tally, is_canary=False)
        self.canary: Followed | None = None

    @property
    def served(self) -> Served | None:
        """What its own model is by now."""
        return self.itself.served

    @property
    def followed(self) -> dict[str, Followed]:
        """By application."""
        found = {engine_application(self.name): self.itself}
        if self.canary is not None:
            found[engine_application(self.name, is_canary=True)] = self.canary
        return found

    @property
    def problem(self) -> str:
        """Why its model or its canary is not served; empty where both are."""
        return self.itself.problem or (self.canary.problem if self.canary is not None else "")

    def let_go(self, spec: DeploymentSpec) -> None:
        """Ask a canary no more that a new revision does not have."""
        if self.canary is not None and spec.canary is None:
            self.canary.stop()
            self.canary = None

    async def reconfigure(self, spec: DeploymentSpec, revision: int) -> None:
        """Serve what a new revision says."""
        before, self._spec = self._spec, spec
        if before is None or before.args != spec.args or self.itself.problem:
            await self.itself.reconfigure(spec.args)
            if before is not None and before.args.model != spec.args.model:
                self._tally.clear()  # another model is judged by its own requests
        before_args = None if before is None else before.canary_args
        if spec.canary_args is not None and spec.canary_args != before_args:
            await self._take_canary(spec.canary_args)
        elif spec.canary_args is not None and self.canary is not None and self.canary.problem:
            await self.canary.reconfigure(spec.canary_args)
        self.revision = revision

    def draw(self) -> Served:
        """What answers the next request. Raises NotRunningError before anything does."""
        if self.served is None:
            raise NotRunningError(
                f"the model {self.name!r} is not loaded yet", hint="try again in a moment"
            )
        canary = self._spec.canary if self._spec else None
        other = self.canary.served if self.canary else None
        if canary is None or other is None or 100.0 * self._random.random() >= canary.weight:
            return self.served
        return other

    async def is_ready(self) -> bool:
        """Whether an engine of its own model answers, where one is kept."""
        return await self.itself.is_ready()

    def verdict(self) -> str | None:
        """Why the canary has failed; None while it has not."""
        if self._spec is None or self._spec.canary is None:
            return None
        itself, canary = self.tallies
        return judge(self._spec.canary, canary, itself)

    @property
    def tallies(self) -> tuple[Tally, Tally]:
        """Of its own model, and of the canary, at all ingresses."""
        heard = [each for each in self._heard if each.revision == self.revision]
        if not heard:
            return self._tally, self._canary_tally
        return (
            self._tally.with_others(each.itself for each in heard),
            self._canary_tally.with_others(each.canary for each in heard),
        )

    @property
    def seen(self) -> Seen | None:
        """What this ingress tells the others; nothing where no canary is measured."""
        if self.canary is None:
            return None
        return Seen(self.revision, self._tally.told(), self._canary_tally.told())

    def hear(self, seen: Iterable[Seen]) -> None:
        """Know what other ingresses see of it now."""
        self._heard = list(seen)

    def stop(self) -> None:
        """Follow nothing any more."""
        for followed in self.followed.values():
            followed.stop()

    async def _take_canary(self, args: AppArgs) -> None:
        """Begin with a canary, which is measured beside what happens from now on."""
        if self.canary is not None:
            self.canary.stop()
        self._tally.clear()
        self._canary_tally = Tally()
        self.canary = self._followed(self._canary_tally, is_canary=True)
        await self.canary.reconfigure(args)

    def _followed(self, tally: Tally, *, is_canary: bool) -> Followed:
        application = engine_application(self.name, is_canary=is_canary)
        return self._follow(application, lambda client: CountedClient(client, tally))
