"""What it costs islands to talk, over links that are as slow as at home.

As root on Linux, `python -m benchmarks.sync_links --workers 2 --mbit 100`: each island is a process
in a network namespace of its own, joined to a bridge by a veth whose both ends `tc` has shaped; the
first island's also has the aggregator, so its link carries what all others say. The exchange is the
real one, of real weights; a step is a sleep and a small change of all weights. The same loop
without anybody to talk to is the mark.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from mulm.train.sync.aggregator import RoundPlan
from mulm.train.sync.codec import Wire
from mulm.train.sync.fragment import Fragment, cut_fragments
from mulm.train.sync.island import Change, Island, IslandPlan
from mulm.train.sync.outer_host import OuterHost
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.transport_tcp import TcpRounds

PORT, SECRET = 29400, "a secret of no worth"
N_TENSORS, N_FRAGMENTS = 24, 4
TOKENS = 1024.0
ROWS = 20
"""Of a lease, about a round's; a step takes one."""


def main() -> None:
    """Print a line of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mbit", type=int, default=100)
    parser.add_argument("--wire", choices=get_args(Wire), default="int8")
    parser.add_argument("--round-s", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--parameters", type=int, default=23_000_000)
    parser.add_argument("--step-s", type=float, nargs="*", default=[0.5], help="Of each worker.")
    parser.add_argument("--island", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.island:
        be_an_island(options)
        return
    steps_s = (options.step_s * options.workers)[: options.workers]
    with tempfile.TemporaryDirectory() as folder, links(options.workers, options.mbit) as spaces:
        told = run_islands(spaces, steps_s, folder)
    alone = [row["alone"] for row in told]
    together = [row["together"] for row in told]
    up, down = (max(row[name] for row in told[1:]) for name in ("sent", "received"))
    print(
        f"| {options.workers} | {options.mbit} | {options.wire} | {options.round_s:g} s"
        f" | {' '.join(f'{s:g}' for s in steps_s)} | {sum(together) / sum(alone):.3f}"
        f" | {min(a / b for a, b in zip(together, alone, strict=True)):.3f}"
        f" | {min(row['rounds'] for row in told):.1f} | {up:.3f} | {down:.3f} |"
    )


def run_islands(spaces: Sequence[str], steps_s: Sequence[float], folder: str) -> list[Any]:
    """Start all, let them begin at once, and read what they measured."""
    islands = []
    for name, step_s in zip(spaces, steps_s, strict=True):
        command = [sys.executable, "-m", "benchmarks.sync_links", *sys.argv[1:], "--step-s",
                   str(step_s), "--island", name, "--folder", folder]  # fmt: skip
        islands.append(
            subprocess.Popen(  # noqa: S603
                ["/usr/sbin/ip", "netns", "exec", name, *command], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )  # fmt: skip
        if len(islands) == 1:
            read_line(islands[0])  # the aggregator is there
    try:
        for island in islands:
            read_line(island)
        for island in islands:
            assert island.stdin is not None
            island.stdin.write("go\n")
            island.stdin.flush()
        return [json.loads(read_line(island)) for island in islands]
    finally:
        for island in islands:
            island.terminate()
            island.wait()


def read_line(island: subprocess.Popen[str]) -> str:
    """What an island says next."""
    assert island.stdout is not None
    line = island.stdout.readline()
    if not line:
        raise SystemExit("an island ended without a word")
    return line


def be_an_island(options: argparse.Namespace) -> None:
    """One island: steps alone, then steps with the others."""
    torch.set_num_threads(1)
    number = int(options.island[-1])
    step_s = options.step_s[0]
    parameters = make_parameters(options.parameters)
    host = None
    if number == 0:
        plan = RoundPlan(n_rows=1 << 40, granule=1, wire=options.wire)
        host = OuterHost(Path(options.folder), plan, address(0), SECRET, (PORT,))
        print("serving", flush=True)
    fragments = cut_fragments(parameters, N_FRAGMENTS)
    rounds = TcpRounds(OuterLink(address(0), PORT, SECRET, options.island), options.parameters * 4)
    island = Island(
        rounds, options.island, fragments, IslandPlan(options.round_s, options.wire),
        time.monotonic,
    )  # fmt: skip
    apply(fragments, island.join())
    print("ready", flush=True)
    sys.stdin.readline()
    alone = steps_per_s(parameters, step_s, min(10.0, options.seconds))
    before = rounds.sent_bytes, rounds.received_bytes, island.n_rounds
    together = steps_per_s(parameters, step_s, options.seconds, island, fragments)
    apply(fragments, island.wait())  # what is half said is not half a round
    n_rounds = (island.n_rounds - before[2]) / N_FRAGMENTS
    per_round = max(n_rounds, 1e-9) * options.parameters
    said = {
        "alone": alone,
        "together": together,
        "rounds": n_rounds,
        "sent": (rounds.sent_bytes - before[0]) / per_round,
        "received": (rounds.received_bytes - before[1]) / per_round,
    }
    print(json.dumps(said), flush=True)
    sys.stdin.readline()  # the aggregator stays until all have said so
    rounds.close()
    island.close()
    if host:
        host.close()


def make_parameters(count: int) -> list[nn.Parameter]:
    """The same on all islands."""
    generator = torch.Generator().manual_seed(0)
    size = count // N_TENSORS
    return [nn.Parameter(torch.randn(size, generator=generator)) for _ in range(N_TENSORS)]


@torch.no_grad()
def steps_per_s(
    parameters: Sequence[nn.Parameter],
    step_s: float,
    seconds: float,
    island: Island | None = None,
    fragments: Sequence[Fragment] = (),
) -> float:
    """Steps in so many seconds, with what the exchange costs between them."""
    began_s, n_steps, n_left = time.monotonic(), 0, 0
    while time.monotonic() < began_s + seconds:
        if island and not n_left:
            lease = island.lease(ROWS, n_steps)
            n_left = lease.n_rows if lease else 0
        time.sleep(step_s)
        parameters[n_steps % len(parameters)].mul_(1.0001)
        n_steps, n_left = n_steps + 1, n_left - 1
        if island:
            island.learned(TOKENS)
            apply(fragments, island.poll())
    return n_steps / (time.monotonic() - began_s)


def apply(fragments: Sequence[Fragment], changes: Sequence[Change]) -> None:
    """As `DilocoSync` does."""
    for change in changes:
        fragments[change.fragment].add(change.change_N)


def address(number: int) -> str:
    """Of an island's link."""
    return f"10.77.0.{number + 1}"


@contextmanager
def links(count: int, mbit: int) -> Iterator[list[str]]:
    """Namespaces that a bridge joins, each behind a link of so many Mbit/s in both directions."""
    tag = f"{os.getpid() % 100000:05d}"
    bridge, spaces = f"br{tag}", [f"island{tag}-{number}" for number in range(count)]
    try:
        sh(f"ip link add {bridge} type bridge")
        sh(f"ip link set {bridge} up")
        for number, space in enumerate(spaces):
            outer, inner = f"o{tag}{number}", f"i{tag}{number}"
            sh(f"ip netns add {space}")
            sh(f"ip link add {outer} type veth peer name {inner}")
            sh(f"ip link set {inner} netns {space}")
            sh(f"ip link set {outer} master {bridge} up")
            inside = f"ip netns exec {space}"
            sh(f"{inside} ip addr add {address(number)}/24 dev {inner}")
            sh(f"{inside} ip link set {inner} up")
            sh(f"{inside} ip link set lo up")
            shape = f"root tbf rate {mbit}mbit burst 128kb latency 50ms"
            sh(f"tc qdisc add dev {outer} {shape}")
            sh(f"{inside} tc qdisc add dev {inner} {shape}")
        yield spaces
    finally:
        for space in spaces:
            sh(f"ip netns del {space}", check=False)
        sh(f"ip link del {bridge}", check=False)


def sh(command: str, *, check: bool = True) -> None:
    """Run one of iproute2's commands."""
    subprocess.run(f"/usr/sbin/{command}".split(), check=check)  # noqa: S603


if __name__ == "__main__":
    main()
