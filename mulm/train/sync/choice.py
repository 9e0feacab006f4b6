"""Which strategy a run's workers agree by, and where they keep the optimizer's states.

Called by the training loop before its first step. Invariant: every worker chooses the same, from
the configuration and from what all of them know; only whether a device's states are in the memory
of the CPU is each worker's own matter.
"""

from __future__ import annotations

from dataclasses import replace

from mulm.train.context import TrainContext
from mulm.train.device import DTYPES, choose_precision
from mulm.train.objectives.microlm import room_bytes
from mulm.train.placement import Placement, choose_placement
from mulm.train.settled import SettledConfig
from mulm.train.settling import run_shape
from mulm.train.sync.base import Sync
from mulm.train.sync.ddp import DdpSync
from mulm.train.sync.ddp_lowrank import DdpLowRankSync
from mulm.train.sync.diloco import DilocoSync
from mulm.train.sync.round_plan import island_plan
from mulm.train.sync.single import SingleSync
from mulm.train.sync.transport_tcp import TcpRounds


def choose_sync(config: SettledConfig, context: TrainContext) -> tuple[Sync, Placement]:
    """The strategy and the placement; their `manner` has the reason."""
    inside, placement = _inside(config, context)
    if context.outer is None:
        return inside, placement
    plan, count = island_plan(config), config.diloco.fragments
    return DilocoSync(inside, context, plan, count, TcpRounds), placement


def _inside(config: SettledConfig, context: TrainContext) -> tuple[Sync, Placement]:
    """Among the workers that sum gradients every step."""
    is_lowrank = config.sync == "ddp_lowrank"
    # States that are shared out make all weights travel.
    placed = _own_placement(config, context, 1 if is_lowrank else context.world_size)
    if context.world_size == 1:
        return SingleSync(), placed
    wire_dtype = DTYPES[config.wire_dtype]
    if is_lowrank:
        rank = config.lowrank.rank
        return DdpLowRankSync(context.device, rank, wire_dtype=wire_dtype), placed
    sync = DdpSync(context.device, wire_dtype=wire_dtype)
    # Where one worker has to share, all do.
    (n_sharing,) = sync.sum_values([float(placed.n_shards > 1)])
    n_shards = context.world_size if n_sharing else 1
    if n_shards != placed.n_shards:
        placed = replace(placed, reason="another worker's memory needs it")
    return sync, replace(placed, n_shards=n_shards, rank=context.rank)


def _own_placement(config: SettledConfig, context: TrainContext, n_sharing: int) -> Placement:
    device, room = context.device, room_bytes(config, context)
    precision, _ = choose_precision(config.precision, device.type)
    shape = None
    if room is not None:
        shape = run_shape(config, context.store, context.dataset, context.models)
    return choose_placement(config, shape, device.type, precision, room, n_sharing)
