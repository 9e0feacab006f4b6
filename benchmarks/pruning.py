"""What a pruned model is worth: cut and taught by its parent, beside others of its size.

    MULM_HOME=... python -m benchmarks.pruning demo --keep 0.5 --config examples/distill.yaml

All students have the shape that `mulm compress MODEL --to pruned` chose and the same further
budget: the steps and tokens of the config, on the model's own dataset, one worker. Bits per byte
are those of the whole held-out text, as `mulm eval` measures them. The application must be down.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from jobs.journey import Journey
from jobs.progress import Progress
from mulm.config import read_mapping
from mulm.home import Home
from mulm.model.compress_config import CompressConfig
from mulm.model.stored import model_config
from mulm.store import Store


def main() -> None:
    """Make all students, judge them, print a table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--config", type=Path, default=Path("examples/distill.yaml"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    home = Home.from_env()
    with Journey(home, Progress(sys.stderr)) as journey:
        config = CompressConfig(model=arguments.model, to="pruned", keep=arguments.keep)
        pruned = journey.compress(config)
        shape = shape_of(home, pruned["model_id"])
        before = {"parent": arguments.model, "cut": pruned["model"]}
        scores = {name: journey.evaluate(model) for name, model in before.items()}
        for name, changes in students(arguments.model, pruned["model"], shape).items():
            path = written(home, arguments.config, name, changes)
            made = journey.train(path, ["workers=1", *arguments.overrides])
            scores[name] = journey.evaluate(made["model"])
    print(json.dumps({name: round(s["bits_per_byte"], 4) for name, s in scores.items()}, indent=1))


def students(parent: str, pruned: str, shape: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs between them."""
    return {
        "cut-and-taught": {"init_from": pruned, "teacher": parent},
        "cut-and-trained": {"init_from": pruned},
        "fresh": {"model": shape},
        "fresh-and-taught": {"model": shape, "teacher": parent},
    }


def shape_of(home: Home, model_id: str) -> dict[str, Any]:
    """The fields of `TrainConfig.model` that give a fresh model the shape of a stored one."""
    store = Store(home.store)
    shape = model_config(store, store.load(model_id)).to_stored()
    return {key: value for key, value in shape.items() if key != "vocab_size"}


def written(home: Home, base: Path, name: str, changes: dict[str, Any]) -> Path:
    """A training config: the base without its models, with a student's own."""
    values = {k: v for k, v in read_mapping(base).items() if k not in ("init_from", "teacher")}
    path = home.root / f"{name}.json"
    path.write_text(json.dumps(values | changes | {"name": name}))
    return path


if __name__ == "__main__":
    main()
