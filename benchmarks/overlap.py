"""What it saves to sum gradients while they are computed, over a link between two processes.

Started twice, `python -m benchmarks.overlap --rank 0 --store FILE` and the same with rank 1,
wherever gloo finds its way (`GLOO_SOCKET_IFNAME`): on two machines, or in two network namespaces
with a link that `tc` has shaped. The steps of both ways alternate, so that what disturbs one
disturbs the other.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import distributed

from mulm.model.compute import Compute
from mulm.model.microlm import MicroLM
from mulm.model.presets import preset
from mulm.train.loss import sum_cross_entropy
from mulm.train.optim import learned_parameters
from mulm.train.sync.ddp import DdpSync


def main() -> None:
    """Print a line of the log's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--store", required=True, help="A file that both reach.")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--tokens", type=int, default=1024, help="Of each worker's step.")
    parser.add_argument("--steps", type=int, default=8, help="In each way.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{options.store}", rank=options.rank, world_size=2
    )
    seconds = {way: list[float]() for way in (True, False)}
    models = {way: attached(options.size, overlaps=way) for way in (True, False)}
    for _ in range(options.steps):
        for overlaps, (model, sync) in models.items():
            seconds[overlaps].append(step_s(model, sync, options.tokens))
    if options.rank == 0:
        early, late = (median(seconds[way][1:]) for way in (True, False))
        megabytes = 4 * models[True][0].config.n_parameters / 1e6
        print(f"| {megabytes:.0f} MB | {late:.2f} s | {early:.2f} s | {late / early:.2f} |")
    distributed.destroy_process_group()


def attached(size: str, *, overlaps: bool) -> tuple[MicroLM, DdpSync]:
    """A fresh model and its strategy."""
    model = MicroLM(preset(size, 8192)).init_weights(torch.Generator().manual_seed(0))
    sync = DdpSync(torch.device("cpu"), overlaps=overlaps)
    sync.attach(list(learned_parameters(model).values()))
    return model, sync


def step_s(model: MicroLM, sync: DdpSync, n_tokens: int) -> float:
    """Seconds from a barrier until the gradients are means."""
    ids_BT = (torch.arange(n_tokens + 1) * 7919 % 8192)[None]
    model.zero_grad(set_to_none=True)
    sync.sum_values([0.0])
    started_s = time.monotonic()
    hidden_ND = model(ids_BT[:, :-1], Compute()).flatten(0, 1)
    loss = sum_cross_entropy(hidden_ND, model.output_weight_VD, ids_BT[:, 1:].flatten())
    with sync.backward(is_last=True):
        torch.autograd.backward(loss)
    sync.mean_gradients(1.0, 2.0)
    return time.monotonic() - started_s


if __name__ == "__main__":
    main()
