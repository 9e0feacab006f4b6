"""The shelf of datasets of this machine's installation, opened for one command.

Opened by the verbs of `mulm data`. Reading goes through the ledger's file and the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mulm.data.shelf import Shelf
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import open_store


class HomeShelf(Shelf):
    """The dataset versions of an installation; closes the ledger on leaving its block."""

    def __init__(self, home: Home, clock: Callable[[], float] = time.time) -> None:
        self.home = home.create()
        self._ledger = Ledger(home.ledger)
        super().__init__(self._ledger, open_store(home))
        self.clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._ledger.close()
