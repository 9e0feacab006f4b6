"""Faults over the real application: `make chaos`, `make chaos ARGS="--seed 3 --case kill-ledger"`.

Each case is repeated by its name and its seed. Prints one JSON object a case; ends with 1 where
anything is wrong. `--minutes N` lives N minutes with training, serving and churn instead.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence

from benchmarks.chaos import (
    backups,
    clocks,
    creates,
    damage,
    disk,
    islands,
    joined,
    kills,
    soak,
    training,
)
from benchmarks.chaos.case import Case, Outcome, draw_of
from benchmarks.chaos.world import World, running_world

CASES: list[Case] = [
    *damage.CASES,
    *clocks.CASES,
    *kills.CASES,
    *creates.CASES,
    *training.CASES,
    *islands.CASES,
    *disk.CASES,
    *backups.CASES,
    *joined.CASES,
]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--minutes", type=float, help="live so long instead of running cases")
    parser.add_argument("--list", action="store_true", help="the names of all cases")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{case.name:28}{case.what}" for case in CASES))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a cluster would stay behind
    if options.minutes:
        sys.exit(0 if live(options.minutes, options.seed) else 1)
    chosen = [case for case in CASES if case.name in (options.case or [c.name for c in CASES])]
    sys.exit(0 if run_all(chosen, options.seed) else 1)


def live(minutes: float, seed: int) -> bool:
    """The soak; returns whether all was well."""
    outcome = Outcome()
    with disk.own_disk() as folder, running_world(folder) as world:
        soak.soak(world, draw_of(seed, "soak"), minutes, outcome)
    print(json.dumps({"seed": seed, **outcome.seen, "wrong": outcome.wrong}), flush=True)
    return not outcome.wrong


def run_all(cases: Sequence[Case], seed: int) -> bool:
    """Run cases in one world; returns whether all has passed."""
    if not any(case.needs_application for case in cases):
        passed = [_run(case, None, seed) for case in cases]
        return all(passed)
    with disk.own_disk() as folder, running_world(folder) as world:
        passed = [_run(case, world, seed) for case in cases]
    return all(passed)


def _run(case: Case, world: World | None, seed: int) -> bool:
    outcome, begun_s = Outcome(), time.monotonic()
    try:
        if world is not None:
            world.require_up()
        case.run(world, draw_of(seed, case.name), outcome)  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - the border: the others still run
        traceback.print_exc()
        outcome.wrong.append(f"the case itself failed: {error!r}")
    told = {
        "case": case.name, "seed": seed, "passed": not outcome.wrong, **outcome.seen,
        "wrong": outcome.wrong, "took_s": round(time.monotonic() - begun_s, 1),
    }  # fmt: skip
    print(json.dumps(told), flush=True)
    return not outcome.wrong


if __name__ == "__main__":
    main()
