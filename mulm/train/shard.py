"""Which worker keeps the optimizer state of which tensor, and how worker 0 gets all of it.

Used by `optim`, and by `memory` to count. After Rajbhandari et al., 2020 ("ZeRO"), but in whole
tensors: Muon turns whole matrices. Invariant: the assignment depends on order and sizes alone, so
it is the same on every worker. Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

K = TypeVar("K", bound=Hashable)


def assign(costs: Mapping[K, int], n_workers: int) -> dict[K, int]:
    """A worker for each, so that all have about as much: the largest first, to who has least."""
    loads, owners = [0] * n_workers, dict.fromkeys(costs, 0)
    for key in sorted(costs, key=lambda key: -costs[key]):  # equal ones keep their order
        owners[key] = loads.index(min(loads))
        loads[owners[key]] += costs[key]
    return owners


def largest_share(costs: Mapping[K, int], sizes: Mapping[K, int], n_workers: int) -> int:
    """The most of `sizes` that one worker has when `costs` are assigned."""
    owners, loads = assign(costs, n_workers), [0] * n_workers
    for key, owner in owners.items():
        loads[owner] += sizes[key]
    return max(loads)


def collect(
    tensors: Mapping[str, Tensor], holders: Mapping[str, int], rank: int, device: torch.device
) -> dict[str, Tensor]:
    """Bring each tensor from the worker that holds it to worker 0, in the memory of the CPU.

    All workers call it with the same holders; `device` is where the process group computes.
    Workers but 0 get back what they gave.
    """
    from torch import distributed, empty_like  # the assignment is needed without torch

    found = dict(tensors)
    for name in sorted(holders):
        if holders[name] == 0:
            continue
        if rank == holders[name]:
            distributed.send(tensors[name].to(device), 0)
        elif rank == 0:
            arrived = empty_like(tensors[name], device=device)
            distributed.recv(arrived, holders[name])
            found[name] = arrived.cpu()
    return found
