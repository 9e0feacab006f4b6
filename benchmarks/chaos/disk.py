"""Cases on a full disk: the home lies on a small disk of its own, which a ballast file fills.

Invariants: what is asked while the disk is full is answered or told `no_space`, models go on
answering; when there is room again everything works without a restart; nothing acknowledged is
lost, and a run that ended for want of room goes on to the same weights.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import httpx

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.kills import judge
from benchmarks.chaos.training import hit, run_of
from benchmarks.chaos.witness import Witness
from benchmarks.chaos.world import World

_SIZE = "2g"
_FULL_S = 8.0
_PATIENCE_S = 120.0
_BLOCK = bytes(1 << 20)


@contextmanager
def own_disk() -> Iterator[Path]:
    """A folder for a world: for root a disk of its own in memory, else an ordinary one."""
    folder = Path(tempfile.mkdtemp(prefix="mulm-chaos-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=700", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and not subprocess.run(command, check=False).returncode  # noqa: S603
    try:
        yield folder
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)  # noqa: S603, S607
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def full_disk(world: World) -> Iterator[None]:
    """Fill the disk of the home to its last byte, as far as it is one of its own."""
    root = world.home.root
    if not os.path.ismount(root.parent):
        raise RuntimeError("the home is on no disk of its own: run this as root")
    ballast = root.parent / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            _fill(file.fileno())
        yield
    finally:
        ballast.unlink(missing_ok=True)


def _fill(descriptor: int) -> None:
    """Down to single bytes, so that not even a short row fits."""
    size_bytes = len(_BLOCK)
    while size_bytes:
        try:
            os.write(descriptor, _BLOCK[:size_bytes])
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            size_bytes //= 2


def serve_on_a_full_disk(world: World, draw: Random, outcome: Outcome) -> None:
    """Full for some seconds, while clients ask and write."""
    with Callers(world) as callers, Witness(world, draw) as witness:
        callers.wait_for_answers(time.monotonic(), _PATIENCE_S)
        with full_disk(world):
            outcome.seen["upload_told"] = _told_of_an_upload(world)
            time.sleep(draw.uniform(0.5, 1.0) * _FULL_S)
            outcome.seen["refused"] = witness.n_refused
        freed_s = time.monotonic()
        callers.wait_for_answers(freed_s, _PATIENCE_S)
        witness.wait_for_more(5, _PATIENCE_S)
        outcome.seen["again_s"] = round(callers.answered_again_s(freed_s), 1)
    outcome.require(outcome.seen["upload_told"] == [507, "no_space"], "an upload was told else")
    judge(callers, witness, (), outcome)


def _told_of_an_upload(world: World) -> list[object]:
    reply = httpx.post(
        f"{world.url}/v1/files", files={"file": ("a.jsonl", _BLOCK)},
        data={"purpose": "user_data"}, timeout=60.0, trust_env=False,
        headers={"Authorization": f"Bearer {world.key}"},
    )  # fmt: skip
    return [reply.status_code, reply.json().get("error", {}).get("code")]


def _train_on_a_full_disk(world: World, run_id: str, _draw: Random, outcome: Outcome) -> None:
    """Until the run has ended for it, or written nothing for a while."""
    with full_disk(world):
        end_s = time.monotonic() + 3 * _FULL_S
        while not run_of(world, run_id).has_ended and time.monotonic() < end_s:
            time.sleep(0.2)
    outcome.seen["phase_when_full"] = run_of(world, run_id).phase


CASES = [
    Case("disk-full", "the home's disk is full while clients ask and write", serve_on_a_full_disk),
    Case("train-disk-full", "the home's disk is full under a run",
         partial(hit, _train_on_a_full_disk)),
]  # fmt: skip
