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
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import torch

from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.world import World
from mulm.errors import MulmError
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.model.checkpoint import load_checkpoint, save_checkpoint
from mulm.store import Store

N_TRIALS = 200
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
    _case("ledger", "the same of the ledger's database", _ledger, has_checksums=False),
]  # fmt: skip
