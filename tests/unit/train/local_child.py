"""A training run in a process of its own, for tests that kill it or fill its disk.

`python local_child.py MULM_HOME RUN STEPS [kill STEP | fill]`; prints the model's id.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch

from jobs import work_here
from jobs.exit_codes import exit_code
from jobs.progress import Progress
from mulm.errors import MulmError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.objectives.microlm import OnMicroLM
from mulm.train.objectives.pretraining import Pretraining


def config(steps: int) -> TrainConfig:
    values = {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": steps, "batch_tokens": 64,
        "seq_len": 16, "precision": "fp32", "device": "cpu", "checkpoint_every": 3,
        "validate_every": 7,
    }  # fmt: skip
    return TrainConfig.model_validate(values)


def run(home: Home, run_id: str, steps: int) -> str:
    with Ledger(home.ledger) as facts:
        facts.publish("dataset", "tiny", tiny_dataset(Store(home.store)).id)
    progress = Progress(io.StringIO())
    return str(work_here.work_here("train", config(steps), run_id, home, progress)["model_id"])


def kill_at(step: int) -> None:
    """The process gets SIGKILL in the middle of the step's arithmetic."""
    honest, n_calls = Pretraining.loss, count(1)

    def dying(*arguments: Any) -> Any:
        if next(n_calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*arguments)

    Pretraining.loss = dying  # type: ignore[method-assign]


def fill_disk_at_the_end(home: Home) -> None:
    """The disk of the home fills up when the model is about to be stored."""
    honest = OnMicroLM.store

    def store(*arguments: Any) -> str:
        filler = home.root / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        return honest(*arguments)

    OnMicroLM.store = store  # type: ignore[method-assign]


def main() -> int:
    torch.set_num_threads(1)
    home, run_id, steps, fault = (
        Home(Path(sys.argv[1])),
        sys.argv[2],
        int(sys.argv[3]),
        sys.argv[4:],
    )
    home.create()
    if fault[:1] == ["kill"]:
        kill_at(int(fault[1]))
    if fault == ["fill"]:
        fill_disk_at_the_end(home)
    try:
        print(run(home, run_id, steps))
    except MulmError as error:
        print(error.code, error.message)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
