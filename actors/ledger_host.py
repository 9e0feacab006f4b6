"""The ledger as an actor: one owner of the database while the application is up.

`LedgerHost` is a plain class around `mulm.ledger.Ledger`; `start_ledger` wraps it once as the
detached actor "ledger"; everybody else calls `connect_facts` and gets a typed client with the
methods of `Facts`. Beside the database it keeps which ingress leads (`actors.crew`). Invariants:
killed and restarted it forgets nothing that must last; a `MulmError` raised inside arrives as that
same error; every call has a deadline. A call that was cut off by a restart is made again, so an
event may stand twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray

from actors.placement import on_this_machine
from actors.remote_answer import HINT, answer
from mulm.crew import CrewBook, Meeting, Word
from mulm.errors import NotRunningError
from mulm.facts import Facts
from mulm.ledger import Ledger

NAMESPACE = "mulm"
ACTOR_NAME = "ledger"
FACT_METHODS = frozenset(name for name in dir(Facts) if not name.startswith("_"))

_CALL_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 20.0
_POLL_S = 0.1


class LedgerHost:
    """Owns the database; answers one generic call per fact."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = Ledger(Path(path))
        self._crew, self._clock = CrewBook(), clock

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of `Facts` by name."""
        assert method in FACT_METHODS, method
        return getattr(self._ledger, method)(*args, **kwargs)

    def meet(self, name: str, word: Word) -> Meeting:
        """As `CrewBook.meet`, now."""
        return self._crew.meet(name, self._clock(), word)

    def leave(self, name: str) -> None:
        """As `CrewBook.leave`."""
        self._crew.leave(name)


class LedgerClient:
    """`Facts` through the actor; safe to share between threads."""

    def __init__(self, handle: Any, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    def __getattr__(self, method: str) -> Any:
        """A method of `Facts`, as a remote call."""
        if method not in FACT_METHODS:
            raise AttributeError(method)
        return partial(self._call, method)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "append_events":  # an iterator does not travel
            args = (args[0], list(args[1]), *args[2:]) if len(args) > 1 else args
        reference = self._handle.call.remote(method, args, kwargs)
        return answer(reference, "ledger", method, self._timeout_s)


def start_ledger(path: Path) -> None:
    """Start the detached actor in the cluster that this process is connected to; idempotent."""
    handle = (
        ray.remote(LedgerHost)
        .options(
            name=ACTOR_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=5,
            scheduling_strategy=on_this_machine(),
        )
        .remote(str(path))
    )
    facts = cast(Facts, LedgerClient(handle))
    facts.valid_keys()  # the first answer shows that the database opens


def connect_facts(timeout_s: float = _CONNECT_TIMEOUT_S) -> Facts:
    """The ledger of the cluster that this process is connected to.

    Raises:
        NotRunningError: not connected, or no ledger appeared within the deadline.
    """
    deadline_s = time.monotonic() + timeout_s
    while ray.is_initialized():
        try:
            return cast(Facts, LedgerClient(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)))
        except ValueError:
            if time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
    raise NotRunningError("there is no ledger in this cluster", hint=HINT)
