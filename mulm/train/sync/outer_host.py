"""A run's aggregator with all it needs to live: its server, and a copy of its state on the disk.

Made on the head by whoever runs islands. Invariants: what is on the disk is whole and checked; a
later host of the same folder goes on from it, and takes what is newer from the islands;
rows are written down before they are given, so that none is given as new after a death; writing
anchors stops no round.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mulm.checkpoint_files import checkpoints, step_of
from mulm.errors import CorruptError, MulmError
from mulm.model.checkpoint import newest_checkpoint, prune_checkpoints, save_checkpoint
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.aggregator_server import AggregatorServer
from mulm.train.sync.kept_rows import KeptRows

_log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
_KEPT = 2


class OuterHost:
    """Serves from its making on.

    Args:
        folder: Of the aggregator's own checkpoints.
        host: The address of this machine that islands reach.
        ports: Are tried one after the other: first that of an earlier host; 0 is a free one.
    """

    def __init__(
        self,
        folder: Path,
        plan: RoundPlan,
        host: str,
        secret: str,
        ports: Sequence[int] = (0,),
        save_every_s: float = SAVE_EVERY_S,
    ) -> None:
        self._folder, self._save_every_s = folder, save_every_s
        # The secret is that of a driver's life: islands of an earlier one are gone.
        self._rows = KeptRows(folder, sha256(secret.encode()).hexdigest()[:16])
        self.aggregator = Aggregator(plan, keep=self._keep_rows)
        self._n_saved = self._restore()
        self._server = AggregatorServer(self.aggregator, host, secret, ports)
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
        number = max((step_of(path) for path in checkpoints(self._folder)), default=0)
        try:
            saved = newest_checkpoint(self._folder)
        except CorruptError as error:
            # The islands have the weights, or the leading one's checkpoint has.
            _log.warning("the kept rounds are damaged and not used reason=%s", error.message)
            saved = None
        if saved is not None:
            self.aggregator.restore(saved.tensors, saved.state)
        try:
            rows = self._rows.read()
        except CorruptError as error:
            _log.warning("the rows that were given are not known reason=%s", error.message)
            return number
        if rows is not None:
            self.aggregator.restore_rows(rows, rows["leader"])
        return number

    def _keep_rows(self, rows: dict[str, Any]) -> None:
        """Called before each answer to an island that asks for rows."""
        try:
            self._rows.write(rows)
        except (MulmError, OSError) as error:
            # Training goes on; after a death now, some rows would be trained on again.
            _log.warning("given rows were not written reason=%s", error)

    def _work(self) -> None:
        while not self._ending.wait(self._save_every_s):
            try:
                self.save()
            except MulmError as error:
                _log.warning("rounds were not written reason=%s", error.message)
