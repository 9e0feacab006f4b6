"""Minutes of random life through HTTP: is any answer lost, mixed up, or a page kept?

    python -m benchmarks.soak --minutes 10

Clients (`benchmarks.soak_clients`) come at random to an application in this process
(`benchmarks.soak_app`): they read whole answers or streams, leave in the middle, give up before the
first token, ask for what cannot be, or tear their connections. Meanwhile an alias moves to and fro
between two random tiny models, each move a new engine beside the old one, and the weights of
running engines are swapped in place. Wrong is an answer that differs from the request's alone, an
error that its way of asking does not allow, an engine whose books do not add up or which ends with
pages held, an error of the log, and memory that grows once all is warm. Prints one JSON object;
exits with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.soak_app import KEEP_PREVIOUS_S, Application, Weights
from benchmarks.soak_clients import Life, be_client
from mulm.model.config import MicroLMConfig
from mulm.testing import TINY, tiny_tokenizer

WINDOW, N_CLIENTS = 512, 24
N_LAYERS = 4
"""So many that the least memory for keys and values is too little for all clients at once."""
SEEDS = {"one": 0, "two": 1}
MOVE_EVERY_S = 4 * KEEP_PREVIOUS_S
WARM_S = 2.5 * MOVE_EVERY_S
"""Both models have come and gone by then, and the allocator has what it keeps."""
MOST_GROWN_MB = 32.0
"""What memory may be more at the end than when all was warm."""
_N_SHOWN = 20


def main() -> None:
    """Live, then look."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = run(Path(folder), options.minutes * 60)
    print(json.dumps(told))
    sys.exit(bool(told["wrong"]))


def run(folder: Path, seconds: float, warm_s: float = WARM_S) -> dict[str, Any]:
    """The numbers of one life; `wrong` names what was."""
    log = _Log()
    logging.getLogger().addHandler(log)
    tokenizer = tiny_tokenizer()
    config = MicroLMConfig.model_validate(
        TINY.model_dump()
        | {"vocab_size": tokenizer.vocab_size, "max_seq_len": WINDOW, "n_layers": N_LAYERS}
    )
    weights = Weights(folder, config, SEEDS)
    life = Life({name: weights.open(name) for name in SEEDS}, tokenizer)
    application = Application(weights, tokenizer)
    memory = [_lived(life, application, each) for each in (warm_s, seconds)]
    application.stop()
    logging.getLogger().removeHandler(log)
    grown_mb = memory[1] - memory[0]
    wrong = life.wrong + application.wrong + log.errors
    if not life.seen["read"]:
        wrong["no answer was read"] += 1
    if grown_mb > MOST_GROWN_MB:
        wrong[f"memory grew by {grown_mb:.1f} MB"] += 1
    return {
        **life.seen, "minutes": round(seconds / 60, 1), "moves": application.n_moves,
        "swaps": application.n_swaps, "preemptions": application.n_preemptions,
        "MB": round(memory[1], 1), "grown MB": round(grown_mb, 1), "warnings": log.warnings,
        "n wrong": wrong.total(), "wrong": dict(wrong.most_common(_N_SHOWN)),
    }  # fmt: skip


def _lived(life: Life, application: Application, seconds: float) -> float:
    """Memory in MB after so long a time, and a rest."""
    asyncio.run(_live(life, application, time.monotonic() + seconds))
    application.rest()
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 1e6


async def _live(life: Life, application: Application, until_s: float) -> None:
    """Clients come and go, weights take turns."""

    def is_over() -> bool:
        return time.monotonic() >= until_s

    clients = [
        asyncio.create_task(be_client(life, application.port, number, is_over))
        for number in range(N_CLIENTS)
    ]
    while not is_over():
        for act in (application.move_on, application.swap, application.swap, application.swap):
            await asyncio.to_thread(act)
            await asyncio.to_thread(application.look)
            await asyncio.sleep(max(0.0, min(MOVE_EVERY_S / 4, until_s - time.monotonic())))
    await asyncio.gather(*clients)


class _Log(logging.Handler):
    """What was logged: warnings by message, and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        if record.levelno >= logging.ERROR:
            self.errors[f"log: {record.getMessage()}"] += 1
        else:
            self.warnings[f"{record.name}: {record.msg}"] += 1


if __name__ == "__main__":
    main()
