"""Something that is done to an engine between two of its steps, while others wait for it.

Made and carried out by `serve_app.engine_thread`. Invariant: a mistake of the user goes to whoever
waits; our own bugs break the engine, and nobody waits for it for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from mulm.engine.engine import Engine
from mulm.errors import MulmError, NotRunningError


@dataclass(frozen=True, slots=True)
class EngineAct:
    """What to do, and when it is done."""

    work: Callable[[Engine], None]
    done: Future[None] = field(default_factory=Future)

    def carry_out(self, engine: Engine) -> None:
        """Do it, unless nobody waits for it any more."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.work(engine)
        except MulmError as error:
            self.done.set_exception(error)
        except Exception as error:
            self.done.set_exception(NotRunningError(f"the engine broke: {error}"))
            raise
        else:
            self.done.set_result(None)

    def refuse(self, error: MulmError) -> None:
        """It is not done."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)
