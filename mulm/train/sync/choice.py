"""Which strategy a run's workers agree by.

Called by the training loop before its first step. Invariant: every worker chooses the same, from
the configuration and from what all of them know.
"""

from __future__ import annotations

from mulm.train.config import TrainConfig
from mulm.train.context import TrainContext
from mulm.train.device import DTYPES
from mulm.train.sync.base import Sync
from mulm.train.sync.ddp import DdpSync
from mulm.train.sync.single import SingleSync


def choose_sync(config: TrainConfig, context: TrainContext) -> Sync:
    """The strategy; its `manner` has the reason."""
    if context.world_size == 1:
        return SingleSync()
    return DdpSync(context.device, wire_dtype=DTYPES[config.wire_dtype])
