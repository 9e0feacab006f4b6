"""All deployments of one ingress, kept as the ledger says.

Run by the ingress host. Each ingress serves them all; one of them leads, has Serve run the engines
and judges canaries by what all have seen. Invariants: what the ledger acknowledged is served, also
after a restart; a deployment that cannot be served leaves the others alone; a canary that fails is
ended, with its reason in the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random

from mulm.crew import Meeting, Word
from mulm.errors import ConflictError, MulmError
from mulm.facts import Facts
from mulm.records import Deployment
from serve_app.deployed import Deployed, Follow
from serve_app.deployer import Deployer
from serve_app.deployment_spec import spec_of, unread

_log = logging.getLogger(__name__)

PERIOD_S = 0.5
_GREET_S = 5.0
_N_WAITS = 2
"""Looks after which every other ingress has looked too."""

_AGAIN_S = 15.0
"""When a deployment that could not be opened is tried again."""

Greet = Callable[[list[str]], Awaitable[None]]
"""Has the engines of these applications report here."""

Forget = Callable[[str], None]
"""Told that an application is asked no more."""

Meet = Callable[[Word], Meeting]
"""As `CrewBook.meet`, of this ingress; may block."""


def alone(_word: Word) -> Meeting:
    """The meeting of one who has no others beside him."""
    return Meeting()


class Deployments:
    """Follows the ledger.

    Args:
        facts: May block; asked in threads.
        deployer: Has Serve run the engines.
        follow: Begins to follow an application.
        greet: Told now and then which applications there are.
        random: Draws for canaries.
        meet: Says what was seen here to the other ingresses, and hears them.
        period_s: Seconds between two looks.
        forget: Told of each application that nobody asks any more.
    """

    def __init__(
        self,
        facts: Facts,
        deployer: Deployer,
        follow: Follow,
        greet: Greet,
        random: Random,
        meet: Meet = alone,
        period_s: float = PERIOD_S,
        forget: Forget = lambda _application: None,
    ) -> None:
        self._facts, self._deployer, self._follow, self._greet = facts, deployer, follow, greet
        self._random, self._meet, self._period_s = random, meet, period_s
        self._forget = forget
        self._has_others, self._n_waits = False, 0
        self._tried_s: dict[str, float] = {}
        self._unread: dict[str, int] = {}
        self.serving: dict[str, Deployed] = {}
        """By name; the same mapping for ever, so that whoever holds it sees what changes."""
        self._tasks: list[asyncio.Task[None]] = []
        self._has_looked = asyncio.Event()

    def start(self) -> None:
        """Follow from now on."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._forever(self.look, self._period_s)),
                asyncio.create_task(self._forever(self._call, _GREET_S)),
            ]

    async def wait_for_look(self, timeout_s: float) -> None:
        """Until it is known what is served, or the time is over, as when the ledger is away."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_looked.wait(), timeout_s)

    def stop(self) -> None:
        """Follow nothing any more; what is served goes on."""
        for task in self._tasks:
            task.cancel()
        for deployed in self.serving.values():
            deployed.stop()

    async def look(self) -> None:
        """Once: do what the ledger says by now."""
        leads = await self._hear()
        found = await asyncio.to_thread(self._facts.deployments)
        wanted = [each for each in found if self._can_read(each)]
        names = {each.name for each in found}
        self._unread = {name: why for name, why in self._unread.items() if name in names}
        if self._let_go(wanted):
            self._n_waits = _N_WAITS if self._has_others else 0
            return  # what was asked until now ends at the next look
        if self._n_waits:  # the other ingresses may ask them still
            self._n_waits -= 1
            return
        act = self._deployer.apply if leads else self._deployer.watch
        await asyncio.to_thread(act, wanted)
        for each in wanted:
            await self._keep(each)
            if leads:
                await self._judge(each)
        self._has_looked.set()

    async def _hear(self) -> bool:
        """Meet the other ingresses; whether this one leads."""
        seen = {name: deployed.seen for name, deployed in self.serving.items()}
        word = {name: each for name, each in seen.items() if each is not None}
        met = await asyncio.to_thread(self._meet, word)
        for name, deployed in self.serving.items():
            deployed.hear(said[name] for said in met.words if name in said)
        self._has_others = bool(met.words)
        return met.leads

    def _can_read(self, wanted: Deployment) -> bool:
        why = unread(wanted)
        if why and self._unread.get(wanted.name) != wanted.revision:
            self._unread[wanted.name] = wanted.revision
            _log.error("deployment cannot be read name=%s reason=%s", wanted.name, why)
        return not why

    def _let_go(self, wanted: Sequence[Deployment]) -> bool:
        """Ask nobody any more who is not wanted; whether there was somebody."""
        before = self._applications
        gone = self.serving.keys() - {each.name for each in wanted}
        for name in gone:
            self.serving.pop(name).stop()
            self._tried_s.pop(name, None)
        for spec in map(spec_of, wanted):
            if spec.name in self.serving:
                self.serving[spec.name].let_go(spec)
        let_go = before - self._applications
        for application in sorted(let_go):
            self._forget(application)
        return bool(let_go)

    @property
    def _applications(self) -> set[str]:
        return {name for each in self.serving.values() for name in each.followed}

    async def _keep(self, wanted: Deployment) -> None:
        if wanted.name not in self.serving:
            self.serving[wanted.name] = Deployed(wanted.name, self._follow, self._random)
        deployed, now_s = self.serving[wanted.name], asyncio.get_running_loop().time()
        is_new = deployed.revision != wanted.revision
        is_due = bool(deployed.problem) and now_s - self._tried_s[wanted.name] > _AGAIN_S
        if is_new or is_due:
            self._tried_s[wanted.name] = now_s
            await deployed.reconfigure(spec_of(wanted), wanted.revision)

    async def _judge(self, wanted: Deployment) -> None:
        reason = self.serving[wanted.name].verdict()
        if reason is None:
            return
        spec = spec_of(wanted).model_copy(update={"canary": None}).model_dump(mode="json")
        why = f"canary ended: {reason}"
        _log.warning("canary ended deployment=%s reason=%s", wanted.name, reason)
        with suppress(ConflictError):  # somebody was faster; the next look sees what he wants
            await asyncio.to_thread(
                self._facts.set_deployment, wanted.name, spec, why, wanted.revision
            )

    async def _call(self) -> None:
        await self._greet(sorted(self._applications))

    async def _forever(self, work: Callable[[], Awaitable[None]], period_s: float) -> None:
        while True:
            try:
                await work()
            except MulmError as error:
                _log.warning("deployments are not followed now reason=%s", error.message)
            except Exception:  # noqa: BLE001 - nothing may end what follows the ledger
                _log.exception("deployments are not followed now")
            await asyncio.sleep(period_s)
