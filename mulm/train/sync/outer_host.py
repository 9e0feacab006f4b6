"""A run's aggregator with all it needs to live: its server, and a copy of its state on the disk.

Made on the head by whoever runs islands. Invariants: what is on the disk is whole and checked; a
later host of the same folder and port goes on from it, and takes what is newer from the islands;
writing never stops a round for longer than a copy in memory takes.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from mulm.errors import CorruptError, MulmError
from mulm.model.checkpoint import newest_checkpoint, prune_checkpoints, save_checkpoint
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.transport_tcp import AggregatorServer

_log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
_KEPT = 2


class OuterHost:
    """Serves from its making on.

    Args:
        folder: Of the aggregator's own checkpoints.
        host: The address of this machine that islands reach.
        port: That of an earlier host, or 0 for a free one.
    """

    def __init__(
        self,
        folder: Path,
        plan: RoundPlan,
        host: str,
        secret: str,
        port: int = 0,
        save_every_s: float = SAVE_EVERY_S,
    ) -> None:
        self._folder, self._save_every_s = folder, save_every_s
        self.aggregator = Aggregator(plan)
        self._n_saved = self._restore()
        self._server = AggregatorServer(self.aggregator, host, secret, port)
        self.address = self._server.address
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="outer-host", daemon=True)
        self._thread.start()

    def save(self) -> None:
        """Write what there is, if there is anything.

        Raises:
            NoSpaceError: the disk is full; what was written before stays.
        """
        tensors, facts = self.aggregator.state()
        if not tensors:
            return
        self._n_saved += 1
        save_checkpoint(self._folder, self._n_saved, tensors, facts)
        prune_checkpoints(self._folder, _KEPT)

    def close(self) -> None:
        """Hear nobody any more, and write the last state."""
        self._ending.set()
        self._server.close()
        self._thread.join()
        self.save()

    def _restore(self) -> int:
        """From the newest copy; returns its number."""
        try:
            saved = newest_checkpoint(self._folder)
        except CorruptError as error:
            # The islands have the weights, or the leading one's checkpoint has.
            _log.warning("the kept rounds are damaged and not used reason=%s", error.message)
            return 0
        if saved is None:
            return 0
        self.aggregator.restore(saved.tensors, saved.state)
        return saved.step

    def _work(self) -> None:
        while not self._ending.wait(self._save_every_s):
            try:
                self.save()
            except MulmError as error:
                _log.warning("rounds were not written reason=%s", error.message)
