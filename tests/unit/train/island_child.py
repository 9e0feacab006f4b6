"""An island, or the aggregator, in a process of its own, for tests that kill them.

`python island_child.py FOLDER host PORT` serves until it is killed; `python island_child.py FOLDER
NAME PORT` trains to the end of the run. An island writes what happens as lines of NAME.jsonl.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.settled import SettledConfig
from mulm.train.sync import exchange
from mulm.train.sync.outer_host import OuterHost
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.round_plan import round_plan

SECRET = "the secret"
N_ISLANDS, STEPS, ROWS, STEP_S, ROUND_S, GRACE_S = 3, 300, 8, 0.05, 0.4, 4.0


def config() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": STEPS,
            "batch_tokens": 16 * ROWS, "seq_len": 16, "log_every": 1, "validate_every": STEPS,
            "checkpoint_every": 50, "precision": "fp32", "compile": False, "samples": None,
            "sync": "diloco", "diloco": {"round_s": ROUND_S, "grace_s": GRACE_S},
        }
    )  # fmt: skip


def host(folder: Path, port: int) -> None:
    values = config().model_dump()
    values["optimizer"] |= {"matrix_lr": 0.02, "embedding_lr": 0.002, "weight_decay": 0.0}
    values["schedule"] |= {"warmup": 0.0}
    plan = round_plan(SettledConfig(**values), N_ISLANDS)
    outer = OuterHost(folder / "rounds", plan, "127.0.0.1", SECRET, (port,), save_every_s=0.3)
    print(outer.address[1], flush=True)
    while True:
        time.sleep(1)


def be_an_island(folder: Path, name: str, port: int) -> None:
    with (folder / f"{name}.jsonl").open("a", buffering=1) as file:

        def tell(kind: str, data: Mapping[str, Any]) -> None:
            file.write(json.dumps({"at_s": time.monotonic(), "kind": kind, **data}) + "\n")

        def each_step() -> bool:
            time.sleep(STEP_S)
            tell("step", {})
            return False

        honest = exchange.Exchanges._follow

        def follow(
            self: exchange.Exchanges, place: int, number: int, anchor_N: torch.Tensor, sent: Any
        ) -> exchange.Exchanged:
            exchanged = honest(self, place, number, anchor_N, sent)
            if exchanged.change_N is not None:
                tell("taken", {
                    "fragment": place, "number": number, "counts": exchanged.n_tokens > 0,
                    "anchor": sha256(anchor_N.numpy().tobytes()).hexdigest(),
                })  # fmt: skip
            return exchanged

        exchange.Exchanges._follow = follow  # type: ignore[method-assign]
        store = Store(folder / "store")
        context = LocalContext(
            store, tiny_dataset(store), folder / name, torch.device("cpu"), tell, each_step,
            outer=OuterLink("127.0.0.1", port, SECRET, name, N_ISLANDS),
        )  # fmt: skip
        result = train(config(), context)
        tell("result", {
            "steps": result.steps, "model_id": result.model_id,
            "validation": result.validation if result.model_id else None,
        })  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, home, role, at = sys.argv
    if role == "host":
        host(Path(home), int(at))
    else:
        be_an_island(Path(home), role, int(at))
