"""Cases that hit a training run with two workers, and what the run must come to all the same.

Invariants after each: the run ends with the very weights of one that nothing befell, and every step
that was measured, once or twice, has the loss that it had there; where the fault ends the run, its
end is told with an error of ours, and going on is one call.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import psutil

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.damage import DAMAGES
from benchmarks.chaos.kills import ANSWERS_WITHIN_S, kill_one
from benchmarks.chaos.leaks import Belongings, left_behind
from benchmarks.chaos.victims import victims
from benchmarks.chaos.world import DATASET, World, is_gone, wait_for
from mulm.checkpoint_files import checkpoints, step_of
from mulm.ledger import Ledger
from mulm.records import Run
from mulm.testing import TINY_SHAPE
from mulm.train.metrics import OF_THE_MACHINE

STEPS = 400
_WHOLE = "run_whole"
_FIRST_KILL, _LAST_KILL = 15, 120
_DEADLINE_S = 240.0
_ENDED = ("succeeded", "failed", "cancelled")


def submit(world: World, run_id: str, **changes: Any) -> None:
    """Start the run as a job."""
    config = {
        "name": "chaos", "dataset": DATASET, "model": TINY_SHAPE, "steps": STEPS, "workers": 2,
        "batch_tokens": 128, "seq_len": 16, "log_every": 1, "validate_every": 100,
        "checkpoint_every": 10, "keep_checkpoints": 2, "device": "cpu", "balance": False,
        "precision": "fp32",
    }  # fmt: skip
    path = world.home.root / f"{run_id}.json"
    path.write_text(json.dumps(config | changes))
    world.jobs.submit("jobs.train", run_id, path)


def whole(world: World) -> tuple[str, dict[int, dict[str, Any]]]:
    """The weights and the curve of a run that nothing befalls; made once in a world."""
    if not _is_known(world, _WHOLE):
        submit(world, _WHOLE)
        wait_for_end(world, _WHOLE)
    return str((run_of(world, _WHOLE).result or {})["model_id"]), curve(world, _WHOLE)


def hit(
    hurt: Callable[[World, str, Random, Outcome], None],
    world: World,
    draw: Random,
    outcome: Outcome,
) -> None:
    """Hurt a run at a random step, have it go on where that ended it, and compare."""
    model_id, expected = whole(world)
    before = Belongings.of(world)
    run_id = f"run_hit{draw.randrange(16**8):08x}"
    submit(world, run_id)
    wait_for_step(world, run_id, draw.randint(_FIRST_KILL, _LAST_KILL))
    begun_s = time.monotonic()
    hurt(world, run_id, draw, outcome)
    end = see_to_its_end(world, run_id, outcome)
    outcome.seen["finished_s"] = round(time.monotonic() - begun_s, 1)
    found = (end.result or {}).get("model_id")
    outcome.require(found == model_id, f"the weights are {found}, not {model_id} ({end.error})")
    compare(curve(world, run_id), expected, outcome)
    outcome.wrong += left_behind(world, before)


def see_to_its_end(world: World, run_id: str, outcome: Outcome) -> Run:
    """Wait for the end; once, have it go on over HTTP where it failed."""
    told = _standing_end(world, run_id)
    if told["phase"] == "failed":
        outcome.seen["told"] = (told.get("error") or {}).get("code")
        outcome.require(outcome.seen["told"] not in (None, "internal"), f"told {told['error']}")
        world.call("POST", f"/api/v1/runs/{run_id}/resume")
        _standing_end(world, run_id)
    return run_of(world, run_id)


def compare(found: dict[int, Any], expected: dict[int, Any], outcome: Outcome) -> None:
    """Every step that was measured is as it was; most were."""
    other = [step for step in found if found[step] != expected.get(step)]
    outcome.require(not other, f"other losses at steps {other[:5]}")
    outcome.require(len(found) > STEPS // 2, f"only {len(found)} steps were measured")
    outcome.seen["steps_compared"] = len(found)


def _kill(kind: str, world: World, _run_id: str, draw: Random, _outcome: Outcome) -> None:
    time.sleep(draw.uniform(0.0, 0.5))
    kill_one(world, kind, draw)


def _kill_under_all(kind: str, world: World, run_id: str, draw: Random, outcome: Outcome) -> None:
    """What the cluster stands on: the keeper brings the application back, not the run."""
    with Callers(world) as callers:
        killed_s = time.monotonic()
        _kill(kind, world, run_id, draw, outcome)
        time.sleep(3.0)
        callers.wait_for_answers(killed_s, 120.0)
        outcome.seen["again_s"] = round(callers.answered_again_s(killed_s), 1)
    outcome.require(outcome.seen["again_s"] <= ANSWERS_WITHIN_S, "answered again too late")


def _take_memory(world: World, _run_id: str, draw: Random, _outcome: Outcome) -> None:
    """From now on one worker can get hardly any more memory, as in a full cgroup."""
    worker = draw.choice(victims(world.pack, "train worker"))
    limit = worker.memory_info().vms + (1 << 16)
    worker.rlimit(psutil.RLIMIT_AS, (limit, limit))


def _damage_files(world: World, run_id: str, draw: Random, outcome: Outcome) -> None:
    """Its driver dies, and of the files that it has one of each kind is not what it was.

    Asked to go on, it says that its newest checkpoint is damaged; that is removed, as it says.
    """
    drivers = victims(world.pack, "job driver")
    kill_one(world, "job driver", draw)
    wait_for(lambda: all(map(is_gone, drivers)), _DEADLINE_S, "the end of the driver")
    wait_for(lambda: not victims(world.pack, "train worker"), _DEADLINE_S, "that of its workers")
    folder = world.home.run(run_id)
    newest = max(checkpoints(folder / "checkpoints"), key=step_of)
    chosen = [
        world.home.root / f"{run_id}.json", folder / "lock", draw.choice(sorted(newest.iterdir())),
        *sorted((folder / "tensorboard").iterdir())[:1],
    ]  # fmt: skip
    for path in chosen:
        path.write_bytes(_damaged(path.read_bytes(), draw))
    outcome.seen["damaged"] = [path.name for path in chosen]
    _standing_end(world, run_id)
    world.call("POST", f"/api/v1/runs/{run_id}/resume")
    error = _standing_end(world, run_id).get("error") or {}
    outcome.require(error.get("code") == "corrupt", f"a damaged checkpoint was told as {error}")
    outcome.require(str(newest) in str(error.get("hint")), f"the hint is {error.get('hint')}")
    shutil.rmtree(newest)
    # It is told a moment before its job has ended, and until then may not go on.
    wait_for(lambda: not victims(world.pack, "job driver"), _DEADLINE_S, "its driver's end")
    wait_for(lambda: not victims(world.pack, "job supervisor"), _DEADLINE_S, "its job's end")


def _damaged(content: bytes, draw: Random) -> bytes:
    while (other := draw.choice(DAMAGES)(content, draw)) == content:
        pass
    return other


def run_of(world: World, run_id: str) -> Run:
    """As the ledger has it."""
    with Ledger(world.home.ledger) as ledger:
        return ledger.run(run_id)


def curve(world: World, run_id: str) -> dict[int, dict[str, Any]]:
    """What was measured after each step, without times; raises where two measures differ."""
    numbers: dict[int, dict[str, Any]] = {}
    with Ledger(world.home.ledger) as ledger:
        for event in ledger.events(run_id, limit=100_000, kinds=["metric"]):
            data = {k: v for k, v in event.data.items() if k not in OF_THE_MACHINE}
            before = numbers.setdefault(data["step"], {})
            for key in before.keys() & data.keys():
                assert before[key] == data[key], f"step {data['step']}: {key} differs"
            before.update(data)
    return numbers


def wait_for_step(world: World, run_id: str, step: int) -> None:
    """Until a run has told of a step."""

    def is_there() -> bool:
        if not _is_known(world, run_id):
            return False
        with Ledger(world.home.ledger) as ledger:
            last = ledger.last_event(run_id, "metric")
        return last is not None and last.data["step"] >= step

    wait_for(is_there, _DEADLINE_S, f"step {step}")


def wait_for_end(world: World, run_id: str) -> None:
    """Until a run has ended by itself."""
    wait_for(
        lambda: _is_known(world, run_id) and run_of(world, run_id).phase in _ENDED,
        _DEADLINE_S,
        "the end of a run",
    )


def _standing_end(world: World, run_id: str) -> dict[str, Any]:
    """As the HTTP API tells it, which also notices a dead process."""

    def ended() -> dict[str, Any] | None:
        told: dict[str, Any] = world.call("GET", f"/api/v1/runs/{run_id}")
        return told if told["phase"] in _ENDED else None

    time.sleep(1.0)
    found: dict[str, Any] = wait_for(ended, _DEADLINE_S, "the end of a run")
    return found


def _is_known(world: World, run_id: str) -> bool:
    with Ledger(world.home.ledger) as ledger:
        return any(run.id == run_id for run in ledger.runs())


def _case(name: str, what: str, hurt: Callable[[World, str, Random, Outcome], None]) -> Case:
    return Case(f"train-{name}", what, partial(hit, hurt))


CASES = [
    _case("kill-worker", "SIGKILL of a train worker", partial(_kill, "train worker")),
    _case("kill-controller", "SIGKILL of Train's controller", partial(_kill, "train controller")),
    _case("kill-driver", "SIGKILL of the job's driver", partial(_kill, "job driver")),
    _case("kill-supervisor", "SIGKILL of Ray's job supervisor", partial(_kill, "job supervisor")),
    _case("kill-ledger", "SIGKILL of the ledger while a run tells it", partial(_kill, "ledger")),
    _case("kill-gcs", "SIGKILL of the GCS under a run", partial(_kill_under_all, "gcs")),
    _case("damaged-files", "its driver is killed, and files in its folder are damaged",
          _damage_files),
    _case("out-of-memory", "a train worker gets no more memory", _take_memory),
]  # fmt: skip
