"""Training on islands that talk now and then: DiLoCo, streamed in fragments.

Each island sums gradients within itself every step, by another strategy, and moves its own weights;
worker 0 exchanges progress with the other islands' through an aggregator (`island`), while training
goes on. Invariants: the workers of an island have the same weights, as all add the same change
after the same step; what an aggregator away or an island gone costs is described in `rounds`.
Source: Douillard et al., 2023, "DiLoCo"; Douillard et al., 2025, "Streaming DiLoCo".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, distributed, nn

from mulm.train.context import TrainContext
from mulm.train.sync.base import Sync
from mulm.train.sync.fragment import Fragment, cut_fragments
from mulm.train.sync.island import Change, Island, IslandPlan
from mulm.train.sync.rounds import Reach, RoundsClient

HAND_IN_S = 10.0
"""How long an island that leaves waits for its progress to be taken."""


class DilocoSync:
    """`Sync` of one worker of an island.

    Args:
        inside: How the workers of this island agree at every step.
        context: Its `outer` says where the aggregator is.
        reach: How worker 0 gets there.
    """

    def __init__(
        self,
        inside: Sync,
        context: TrainContext,
        plan: IslandPlan,
        n_fragments: int,
        reach: Reach,
    ) -> None:
        self._inside, self._context, self._reach = inside, context, reach
        self._plan, self._n_fragments = plan, n_fragments
        self._fragments: list[Fragment] = []
        self._rounds: RoundsClient | None = None
        self.island: Island | None = None
        """On worker 0, once parameters are attached."""
        self._own_count = 0.0

    @property
    def round_s(self) -> float:
        """Time between two exchanges of the same weights."""
        return self.island.round_s if self.island else self._plan.round_s

    @property
    def manner(self) -> str:
        """How often, in which form."""
        plan = self._plan
        waits = "waiting" if plan.is_blocking else "while training goes on"
        return (
            f"diloco: {self._n_fragments} fragments of the weights travel in {plan.wire},"
            f" each {plan.round_s:.1f} s, {waits}; inside: {self._inside.manner}"
        )

    def attach(self, parameters: Sequence[nn.Parameter], owners: Sequence[int] = ()) -> None:
        """Join the other islands, and begin with their weights."""
        self._inside.attach(parameters, owners)
        self._fragments = cut_fragments(parameters, self._n_fragments)
        if self._context.rank == 0:
            link = self._context.outer
            assert link is not None, "no aggregator was given"
            largest = max(fragment.size for fragment in self._fragments)
            self._rounds = self._reach(link, 4 * largest)
            self.island = Island(
                self._rounds, link.island, self._fragments, self._plan, self._context.now_s
            )
        self._apply(self.island.join() if self.island else [])

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """Over this island."""
        return self._inside.sum_values(values)

    def drop(self) -> None:
        """Of this island's step."""
        self._inside.drop()

    def backward(self, *, is_last: bool) -> AbstractContextManager[None]:
        """This island's way back."""
        return self._inside.backward(is_last=is_last)

    def mean_gradients(self, own_count: float, count: float) -> Tensor:
        """Over this island."""
        self._own_count = count
        return self._inside.mean_gradients(own_count, count)

    def after_step(self) -> None:
        """Send what is due, and add what came."""
        self._inside.after_step()
        if self.island:
            self.island.learned(self._own_count)
        self.poll()

    def poll(self) -> None:
        """As after a step, also where there was none; called on all workers of the island."""
        changes: list[Change] = []
        if self.island:
            changes = self.island.join() if self.island.is_out else self.island.poll()
        self._apply(changes)

    def finish(self) -> None:
        """Exchange all that is left, and take the anchor for the weights; called on all workers.

        Twice: what came late in the first exchange, or met a new aggregator, goes with the second.
        """
        for _ in range(2):
            self._apply(self.island.wait() if self.island else [])
            self._apply(self.island.join() if self.island and self.island.is_out else [])
            if self.island:
                self.island.send_all()
        self._apply(self.island.wait() if self.island else [])
        self._apply(self.island.anchors() if self.island else [], is_value=True)

    def hand_in(self, patience_s: float = HAND_IN_S) -> None:
        """Exchange what there is, within seconds, before leaving; called on all workers."""
        self._apply(self.island.wait(patience_s / 2) if self.island else [])
        if self.island:
            self.island.send_all()
        self._apply(self.island.wait(patience_s / 2) if self.island else [])

    def close(self, n_done: int) -> None:
        """Leave the other islands."""
        if self.island and self._rounds:
            self.island.leave(n_done)
            self._rounds.close()
            self.island.close()

    def _apply(self, changes: Sequence[Change], *, is_value: bool = False) -> None:
        """The same on all workers of the island, which worker 0 tells."""
        by_fragment = {change.fragment: change.change_N for change in changes}
        is_told = [float(place in by_fragment) for place in range(len(self._fragments))]
        for place, is_there in enumerate(self._inside.sum_values(is_told)):
            if not is_there:
                continue
            fragment = self._fragments[place]
            change_N = by_fragment.get(place)
            if self._context.world_size > 1:
                change_N = self._told(fragment.size, change_N)
            assert change_N is not None
            (fragment.write if is_value else fragment.add)(change_N)

    def _told(self, size: int, change_N: Tensor | None) -> Tensor:
        on_device_N = torch.empty(size) if change_N is None else change_N
        on_device_N = on_device_N.to(self._context.device)
        distributed.broadcast(on_device_N, 0)
        return on_device_N
