"""Two machines and a cable: how a run trains is chosen by what both of them can do."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from tests.cluster.joined.machines import needs_namespaces, run
from tests.cluster.joined.pair import DEADLINE_S, MULM, Pair, wait_for_run, wait_for_text

pytestmark = [pytest.mark.cluster, needs_namespaces]

# Steps of a tenth of a second, which is long beside a round trip.
CONFIG: dict[str, Any] = {
    "dataset": "tiny", "model": TINY_SHAPE, "steps": 30, "batch_tokens": 8192, "seq_len": 16,
    "validate_every": 1000, "checkpoint_every": 10, "device": "cpu", "precision": "fp32",
    "samples": None, "workers": 2, "optimizer": {"kind": "adamw"},
}  # fmt: skip


@pytest.fixture(scope="module")
def joined(pair: Pair) -> Iterator[Pair]:
    with Ledger(pair.head.home / "ledger.sqlite") as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(Store(pair.head.home / "store")).id)
    other = pair.join("--name", "laptop")
    try:
        pair.wait_for_nodes(2)
        yield pair
    finally:
        run(pair.other, [*MULM, "leave"], DEADLINE_S)
        other.kill()
        other.communicate()


def start(pair: Pair, folder: Path, name: str, **changes: Any) -> subprocess.Popen[str]:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIG | {"name": name} | changes))
    return subprocess.Popen(
        pair.head.command(*MULM, "train", str(path), "--json"), env=pair.head.env(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    out, errors = process.communicate(timeout=2 * DEADLINE_S)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1]), errors


def run_of(pair: Pair, name: str) -> str:
    with Ledger(pair.head.home / "ledger.sqlite") as ledger:
        (found,) = [one.id for one in ledger.runs() if one.config.get("name") == name]
    return found


def wait_for_choice(pair: Pair, run_id: str) -> dict[str, Any]:
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with Ledger(pair.head.home / "ledger.sqlite") as ledger:
            if event := ledger.last_event(run_id, "choice"):
                return event.data
        time.sleep(0.3)
    pytest.fail("nothing was chosen")


def choice_of(pair: Pair, run_id: str) -> dict[str, Any]:
    with Ledger(pair.head.home / "ledger.sqlite") as ledger:
        event = ledger.last_event(run_id, "choice")
    assert event is not None
    return event.data


def test_a_fast_cable_carries_gradients_of_every_step(joined: Pair, tmp_path: Path) -> None:
    told, errors = finish(start(joined, tmp_path, "fast"))
    choice = choice_of(joined, run_of(joined, "fast"))
    assert choice["strategy"] == "ddp", choice
    assert sorted(choice["machines"]) == ["10.77.0.1", "10.77.0.2"]
    assert 1.0 < choice["gain"] <= 2.5
    assert "gradients summed every step" in errors
    assert told["steps"] == 30


def test_a_slow_cable_and_a_short_run_leave_the_other_alone(joined: Pair, tmp_path: Path) -> None:
    with joined.head.slowed(1), joined.other.slowed(1):
        _, errors = finish(start(joined, tmp_path, "short"))
    choice = choice_of(joined, run_of(joined, "short"))
    assert (choice["strategy"], choice["workers"]) == ("single", 1), choice
    (warning,) = choice["warnings"]
    assert "does not pay" in warning
    assert warning in errors
    shown = run(joined.head, [*MULM, "runs", "show", run_of(joined, "short")], DEADLINE_S)
    assert "trains by   one worker on 10.77.0." in shown.stdout
    assert f"warning     {warning[:40]}" in shown.stdout


def test_a_slow_cable_and_a_long_run_make_islands(joined: Pair, tmp_path: Path) -> None:
    with joined.head.slowed(4), joined.other.slowed(4):
        # Steps so long that a round of a second has few of them on a fast machine too.
        training = start(joined, tmp_path, "long", steps=20_000, batch_tokens=32_768)
        try:
            run_id = wait_for_run(joined, "long")
            choice = wait_for_choice(joined, run_id)
            assert (choice["strategy"], choice["wire"]) == ("diloco", "int8"), json.dumps(choice)
            for number in (1, 2):
                wait_for_text(joined, f"begins on 10.77.0.{number}", run_id)
        finally:
            run(joined.head, [*MULM, "runs", "cancel", run_of(joined, "long")], DEADLINE_S)
            training.communicate(timeout=DEADLINE_S)
    assert choice["round_s"] >= 1.0
    assert choice["share"] <= 0.05
    links = {seen["machine"]: seen["link"] for seen in choice["measured"]}
    assert links["10.77.0.1"] == "the head's own"
    assert links["10.77.0.2"].startswith("4 Mbit/s up, 4 down")
