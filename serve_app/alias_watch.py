"""Follows aliases: what serves them is told when one points to another version.

Used by the engine host and the ingress host, each for itself, so that nobody has to be told by a
deployment. Invariants: whoever serves it has, in the end, the model that the alias points to; one
that cannot be taken over is tried once, and the one before it is served on; what fails for the
moment is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from mulm.errors import DeadlineError, MulmError, NotRunningError
from mulm.refs import parse_ref
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

FOLLOW_PERIOD_S = 1.0
MAX_PAUSE_S = 30.0

Meaning = tuple[str, ...]
"""The id of a model, and after it those of its adapters."""

Resolve = Callable[[AppArgs], Meaning]
"""What references mean by now."""

TakeOver = Callable[[AppArgs], Awaitable[Meaning]]
"""Serves what references mean by now, and says what that is."""


class AliasWatch:
    """Looks now and then where the served alias points.

    Args:
        resolve: Looks; may block.
        period_s: Seconds between two looks.
        sleep: Lets as many seconds pass.
    """

    def __init__(
        self,
        resolve: Resolve,
        period_s: float = FOLLOW_PERIOD_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._resolve, self._period_s, self._sleep = resolve, period_s, sleep
        self._task: asyncio.Task[None] | None = None

    def follow(self, args: AppArgs, served: Meaning, take_over: TakeOver) -> None:
        """Call `take_over` whenever an alias in `args` means something else than is served.

        Another call ends this one.
        """
        self.stop()
        if args.model is not None and args.is_followed:
            self._task = asyncio.create_task(self._watch(args, served, take_over))

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self, args: AppArgs, served: Meaning, take_over: TakeOver) -> None:
        refused: Meaning = ()
        pause_s = self._period_s
        while True:
            await self._sleep(pause_s)
            found: Meaning = ()
            try:
                found = await asyncio.to_thread(self._resolve, args)
                if found not in (served, refused):
                    _log.info("alias moved alias=%s model=%s", args.model, " ".join(found))
                    served, refused = await take_over(args), ()
            except (NotRunningError, DeadlineError) as error:
                _log.warning("alias is not followed now alias=%s why=%s", args.model, error.message)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
            except MulmError as error:
                _log.warning("alias is not followed alias=%s reason=%s", args.model, error.message)
                refused = found
            except Exception:  # noqa: BLE001 - weights are loaded here: nothing may end the watch
                _log.exception("alias not followed alias=%s model=%s", args.model, " ".join(found))
                refused = found
            else:
                pause_s = self._period_s


def resolve_ids(args: AppArgs) -> Meaning:
    """The manifest ids of what `args` name, in the cluster's ledger.

    Raises:
        NotFoundError: there is none.
        NotRunningError: the ledger does not answer.
    """
    from actors.ledger_host import connect_facts

    facts = connect_facts()
    refs = [args.ref, *map(parse_ref, args.adapters.values())]
    return meaning(facts.resolve("model", ref).manifest_id for ref in refs)


def meaning(ids: Iterable[str]) -> Meaning:
    """Of a model and then its adapters; two names can mean one version."""
    return tuple(dict.fromkeys(ids))
