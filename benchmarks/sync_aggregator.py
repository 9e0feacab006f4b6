"""What one aggregator's processor does for so many islands: CPU seconds a round, on one thread.

`python -m benchmarks.sync_aggregator --islands 2 4 6`: the real aggregator in this process, told
what islands tell it, without a network; each island gives progress of all fragments of 23 M weights
and takes the updates. The islands' own arithmetic is not counted. It prints a line of the table in
`docs/decisions/0020-islands.md`, whose last columns are what its network card carries for them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import get_args

import torch

from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.codec import Wire
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.rounds import Anchor, Offer, Standing

N_FRAGMENTS = 4


def main() -> None:
    """Print a line for each number of islands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--islands", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--parameters", type=int, default=23_000_000)
    parser.add_argument("--wire", choices=get_args(Wire), default="int8")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for n_islands in options.islands:
        print(line(n_islands, options.parameters, options.wire, options.rounds), flush=True)


def line(n_islands: int, n_parameters: int, wire: Wire, n_rounds: int) -> str:
    """Of the table: CPU seconds of an offer and of a round at their least, and bytes."""
    size = n_parameters // N_FRAGMENTS
    names = [f"island-{n}" for n in range(n_islands)]
    aggregator = _begun(names, size, wire)
    payload = CODECS[wire].encode(torch.randn(size) / 100)
    rounds_s, offers_s = [], []
    for number in range(n_rounds):
        round_s = 0.0
        for fragment in range(N_FRAGMENTS):
            told = [_cpu_s(aggregator, Offer(name, fragment, number, 1.0, payload))
                    for name in names]  # fmt: skip
            round_s += sum(told)
            offers_s += told[:-1]  # the last one closes the round
        rounds_s.append(round_s)
    carried_mb = n_islands * CODECS[wire].size_bytes(size) * N_FRAGMENTS / 1e6
    return (
        f"| {n_islands} | {wire} | {N_FRAGMENTS * min(offers_s):.3f} | {min(rounds_s):.2f}"
        f" | {carried_mb:.0f} |"
    )


def _begun(names: Sequence[str], size: int, wire: Wire) -> Aggregator:
    aggregator = Aggregator(RoundPlan(n_rows=1 << 40, granule=1, wire=wire))
    for name in names:
        joined = aggregator.join(name, Standing((size,) * N_FRAGMENTS))
        for fragment in joined.send:
            anchor = Anchor(fragment, 0, CODECS["fp32"].encode(torch.zeros(size)))
            aggregator.send(name, anchor)
    return aggregator


def _cpu_s(aggregator: Aggregator, offer: Offer) -> float:
    began_s = time.thread_time()
    aggregator.offer(offer)
    return time.thread_time() - began_s


if __name__ == "__main__":
    main()
