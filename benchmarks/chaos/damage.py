"""Cases that damage a file as disks and power cuts do, and what reading it then says.

No application runs. Invariant after each damage: what is read is what was written, or an error of
ours says that it is not (`corrupt` above all); a finished step whose marker is damaged is unknown;
nothing is ever read as something else. SQLite has no checksums: there a value with a flipped bit
may be read as it stands, which is counted as `silent`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.world import World
from jobs.entry import JobContext, execute
from mulm.atomic import write_atomic
from mulm.config import canonical_json, load_config
from mulm.errors import MulmError, StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.model.checkpoint import load_checkpoint, save_checkpoint
from mulm.runs.identity import identity_of
from mulm.store import Store
from mulm.testing import TINY_SHAPE
from mulm.train.config import TrainConfig
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.kept_rows import NAME as ROWS
from mulm.train.sync.kept_rows import KeptRows
from mulm.train.sync.rounds import Anchor, Standing

N_TRIALS = 200
_ROUNDS = RoundPlan(n_rows=1000, granule=1)
_TRAINING = {
    "name": "a", "dataset": "b@1", "model": TINY_SHAPE, "steps": 400, "batch_tokens": 128,
    "seq_len": 16,
}  # fmt: skip
Read = Callable[[], object]
Damage = Callable[[bytes, Random], bytes]


def flip(content: bytes, draw: Random) -> bytes:
    """One bit is another."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def tear(content: bytes, draw: Random) -> bytes:
    """The end is missing."""
    return content[: draw.randrange(len(content))]


def blank(content: bytes, draw: Random) -> bytes:
    """A piece is zeros, as of a block that never reached the disk."""
    begin = draw.randrange(len(content))
    end = min(len(content), begin + draw.choice((1, 16, 512)))
    return content[:begin] + bytes(end - begin) + content[end:]


def grow(content: bytes, draw: Random) -> bytes:
    """Something follows that does not belong there."""
    return content + draw.randbytes(draw.choice((1, 100, 4096)))


DAMAGES: tuple[Damage, ...] = (flip, tear, blank, grow)


def damage_again_and_again(
    place: Callable[[Path], tuple[Path, Read]],
    has_checksums: bool,
    _world: World,
    draw: Random,
    outcome: Outcome,
) -> None:
    """Damage a file in many ways, one after another, and read it each time."""
    with tempfile.TemporaryDirectory(prefix="mulm-chaos-") as folder:
        path, read = place(Path(folder))
        content, right = path.read_bytes(), read()
        n_told = n_silent = 0
        for trial in range(N_TRIALS):
            damage = draw.choice(DAMAGES)
            damaged = damage(content, draw)
            if damaged == content:
                continue
            with _in_place(path, damaged):
                told = _told(read)
            n_told += isinstance(told, MulmError)
            is_right = isinstance(told, MulmError) or told == right or told is None
            if not is_right and not has_checksums and not isinstance(told, Exception):
                n_silent += 1
                continue
            outcome.require(is_right, f"trial {trial}, {damage.__name__}: {told!r:.200}")
    del outcome.wrong[5:]
    outcome.seen.update(damages=N_TRIALS, told=n_told, silent=n_silent)


@contextmanager
def _in_place(path: Path, content: bytes) -> Iterator[None]:
    backup = path.with_name(f"{path.name}.right")
    shutil.move(path, backup)
    path.write_bytes(content)
    try:
        yield
    finally:
        for leftover in path.parent.glob(f"{path.name}-*"):  # SQLite's
            leftover.unlink()
        shutil.move(backup, path)


def _told(read: Read) -> object:
    try:
        return read()
    except MulmError as error:
        return error
    except Exception as error:  # noqa: BLE001 - what is not ours is what is looked for
        return error


def _stored(folder: Path) -> tuple[Store, Manifest]:
    store = Store(folder / "store")
    blobs = (store.put("train-00000.bin", bytes(range(256)) * 40, rows=100),)
    manifest = Manifest(kind="dataset", code_version="0", config={"name": "a"}, blobs=blobs)
    store.save(manifest)
    store.remember("a" * 64, manifest.id)
    return store, manifest


def _blob(folder: Path) -> tuple[Path, Read]:
    store, manifest = _stored(folder)
    return store.path(manifest.blobs[0]), lambda: store.read(manifest.blobs[0])


def _manifest(folder: Path) -> tuple[Path, Read]:
    store, manifest = _stored(folder)
    path = store.root / "manifests" / f"{manifest.id}.json"
    return path, lambda: store.load(manifest.id)


def _marker(folder: Path) -> tuple[Path, Read]:
    """None, an unknown step, is right too: it is made again."""
    store, _manifest = _stored(folder)
    return store.root / "steps" / f"{'a' * 64}.json", lambda: store.recall("a" * 64)


def _checkpoint(name: str, folder: Path) -> tuple[Path, Read]:
    at = save_checkpoint(folder, 7, {"weight": torch.arange(600.0)}, {"seed": 1, "words": "ab"})

    def read() -> object:
        found = load_checkpoint(at)
        return found.step, found.state, found.tensors["weight"].tolist()

    return at / name, read


def _run_config(folder: Path) -> tuple[Path, Read]:
    """The config that a run's job reads, and what the job would work by; the ledger has it too."""
    home = Home(folder / "home").create()
    config = TrainConfig.model_validate(_TRAINING)
    path = home.run("run_a") / "config.json"
    write_atomic(path, canonical_json(config.model_dump(mode="json")))
    with Ledger(home.ledger) as ledger:
        ledger.create_run("run_a", "train", config.model_dump(mode="json"))

    def read() -> object:
        worked_by: list[object] = []

        def work(_context: JobContext, found: TrainConfig) -> dict[str, Any]:
            worked_by.append(identity_of(found))
            raise StoppedError("it is not to succeed: then it would not begin again")

        found = load_config(TrainConfig, path)
        with Ledger(home.ledger) as ledger, suppress(StoppedError):
            execute("train", found, work, JobContext("run_a", home, Store(home.store), ledger))
        return worked_by

    return path, read


def _run_rows(folder: Path) -> tuple[Path, Read]:
    """Which rows the islands of a run were given."""
    KeptRows(folder, "life").write({"line": 640, "open": [(128, 192), (512, 640)], "leader": "a"})
    return folder / ROWS, lambda: KeptRows(folder, "life").read()


def _run_rounds(name: str, folder: Path) -> tuple[Path, Read]:
    """The anchors that they agree on, as an aggregator goes on from them."""
    aggregator = Aggregator(_ROUNDS)
    aggregator.join("a", Standing((500,)))
    aggregator.send("a", Anchor(0, 3, CODECS["fp32"].encode(torch.arange(500.0))))
    at = save_checkpoint(folder, 1, *aggregator.state())

    def read() -> object:
        later = Aggregator(_ROUNDS)
        saved = load_checkpoint(at)
        later.restore(saved.tensors, saved.state)
        tensors, facts = later.state()
        return {key: value.tolist() for key, value in tensors.items()}, facts

    return at / name, read


def _ledger(folder: Path) -> tuple[Path, Read]:
    path = folder / "ledger.sqlite"
    with Ledger(path) as ledger:
        for n in range(40):
            ledger.publish("dataset", "books", f"ds_{n:024}")
            ledger.create_run(f"run_{n}", "train", {"steps": n})
            ledger.append_events(f"run_{n}", [("metric", {"step": m, "loss": m}) for m in range(9)])

    def read() -> object:
        with Ledger(path) as ledger:
            runs = ledger.runs()
            events = [ledger.events(run.id) for run in runs]
            return runs, events, ledger.versions("dataset")

    return path, read


def _case(
    name: str, what: str, place: Callable[[Path], tuple[Path, Read]], has_checksums: bool = True
) -> Case:
    run = partial(damage_again_and_again, place, has_checksums)
    return Case(f"damage-{name}", what, run, needs_application=False)


CASES = [
    _case("blob", "torn, flipped, blanked and grown bytes of a blob", _blob),
    _case("manifest", "the same of a manifest", _manifest),
    _case("marker", "the same of the marker of a finished step", _marker),
    *(
        _case(f"checkpoint-{name.partition('.')[0]}", f"the same of a checkpoint's {name}",
              partial(_checkpoint, name))
        for name in ("tensors.safetensors", "state.json", "manifest.json")
    ),
    _case("run-config", "the same of the config that a run's job reads", _run_config),
    _case("run-rows", "the same of which rows the islands of a run were given", _run_rows),
    *(
        _case(f"run-rounds-{name.partition('.')[0]}", f"the same of the aggregator's {name}",
              partial(_run_rounds, name))
        for name in ("tensors.safetensors", "state.json", "manifest.json")
    ),
    _case("ledger", "the same of the ledger's database", _ledger, has_checksums=False),
]  # fmt: skip
