"""Two machines: what is refused, and one model through a lost cable until one leaves."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from jobs.exit_codes import exit_code
from mulm.errors import AuthError, ConfigError, NotRunningError, StoppedError
from mulm.join_token import join_token
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import tiny_dataset
from tests.cluster.joined.machines import needs_namespaces, run
from tests.cluster.joined.pair import (
    DEADLINE_S,
    MULM,
    Pair,
    commands_of,
    living_ids,
    newest_step,
    pack_of,
    title,
    wait_for_run,
    wait_for_text,
    wait_until,
)

pytestmark = [pytest.mark.cluster, needs_namespaces]

ROOT = Path(__file__).parents[3]
STAY_UNASKED = """
import sys
from jobs.membership import stay
from mulm.errors import MulmError
from mulm.home import Home
try:
    stay(Home.from_env(), sys.argv[1], "x", "family", print)
except MulmError as error:
    sys.exit(f"{error.code}: {error.message}\\n{error.hint}")
"""


def test_what_does_not_fit_is_refused_in_seconds(pair: Pair) -> None:
    stranger = join_token("0" * 64)
    for words, error, told in (
        ([pair.address, "--token", pair.token[:-3]], AuthError("x"), "incomplete"),
        ([pair.address, "--token", stranger], AuthError("x"), "does not know this token"),
        (["10.77.0.9", "--token", pair.token], NotRunningError("x"), "nobody answers"),
        ([f"{pair.head.address}:1", "--token", pair.token], NotRunningError("x"), "nobody answers"),
    ):
        started_s = time.monotonic()
        done = run(pair.other, [*MULM, "join", *words], DEADLINE_S)
        assert done.returncode == exit_code(error), done.stderr
        assert told in done.stderr
        assert "hint:" in done.stderr
        assert time.monotonic() - started_s < 20
        assert not pair.other.home.joinpath("joined.json").exists()
    assert not pack_of(pair.other).find()


def test_a_head_that_refuses_is_not_said_to_be_joined(pair: Pair) -> None:
    token = pair.other.home / "joined_token"
    token.write_text("0" * 64)
    done = run(pair.other, [sys.executable, "-c", STAY_UNASKED, pair.address], DEADLINE_S)
    token.unlink()
    assert done.returncode == 1
    assert "joined" not in done.stdout
    said = done.stderr.splitlines()
    assert "did not take this machine in" in said[0]
    assert "does not know this token" in said[1]
    assert any("AuthenticationError" in line for line in said[2:]), done.stderr
    assert not pair.other.home.joinpath("joined.json").exists()
    assert not pack_of(pair.other).find()


@pytest.mark.parametrize("package", ["ray", "torch", "µLM"])
def test_another_version_is_refused_with_the_fix(pair: Pair, tmp_path: Path, package: str) -> None:
    if package == "µLM":
        for name in ("mulm", "actors", "serve_app", "jobs"):
            shutil.copytree(ROOT / name, tmp_path / name)
        with (tmp_path / "mulm" / "refs.py").open("a") as file:
            file.write("# another commit\n")
    else:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
    words = [*MULM, "join", pair.address, "--token", pair.token]
    done = run(pair.other, words, DEADLINE_S, tmp_path)
    assert done.returncode == exit_code(ConfigError("x")), done.stderr
    assert f"the head runs {package} " in done.stderr
    assert "use the same commit" in done.stderr
    assert not pack_of(pair.other).find()


def test_a_machine_is_told_with_its_line_and_let_go_by_the_head(pair: Pair) -> None:
    with pair.head.slowed(40), pair.other.slowed(16):
        joined = pair.join("--name", "laptop", "--trust", "guest")
        try:
            _, laptop = pair.wait_for_nodes(2)
            assert (laptop["name"], laptop["trust"]) == ("laptop", "guest")
            assert laptop["down_mbit"] == pytest.approx(40, rel=0.4)
            assert laptop["up_mbit"] == pytest.approx(16, rel=0.4)
            assert 0 < laptop["rtt_ms"] < 1000
            assert 0 <= time.time() - laptop["since_s"] < DEADLINE_S
            for _ in range(3):  # what belongs to the head is started again there
                (ledger,) = (p for p in pack_of(pair.head).find() if "LedgerHost" in title(p))
                ledger.kill()
                pair.nodes()
                wait_until(lambda: any("LedgerHost" in title(p) for p in pack_of(pair.head).find()))
                assert "LedgerHost" not in commands_of(pair.other)
            done = run(pair.head, [*MULM, "cluster", "nodes"], DEADLINE_S)
            assert "laptop" in done.stdout
            assert "Mbit/s" in done.stdout
            done = run(pair.head, [*MULM, "cluster", "leave", "laptop"], DEADLINE_S)
            assert (done.returncode, done.stdout) == (0, "laptop has left\n"), done.stderr
            assert joined.wait(30) == 0
        finally:
            joined.kill()
            joined.communicate()
    assert not pack_of(pair.other).find()
    assert not pair.other.home.joinpath("joined.json").exists()


def test_two_machines_train_one_model(pair: Pair, tmp_path: Path) -> None:
    store = Store(pair.head.home / "store")
    with Ledger(pair.head.home / "ledger.sqlite") as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(store).id)
    joined = pair.join("--name", "laptop")
    nodes = pair.wait_for_nodes(2)
    assert [node["labels"].get("mulm.name") for node in nodes] == [None, "laptop"]
    assert pair.token.split("_")[2] not in commands_of(pair.other)
    training = pair.train(tmp_path / "config.json")
    try:
        run_id = wait_for_run(pair, "ours")
        wait_for_text(pair, "begins on 10.77.0.2", run_id)
        time.sleep(3.0)
        opened = {6379, *range(6380, 6580)}  # as `mulm up --lan` says
        share = set(range(6564, 6580))
        wait_until(lambda: bool({here for here, _ in pair.head.lines_to(pair.other)} & share))
        lines = pair.head.lines_to(pair.other)
        assert [ends for ends in lines if not opened & {*ends}] == []
        assert {6379, 6380} <= {port for ends in lines for port in ends}
        pair.other.pull()
        wait_for_text(pair, "is lost", run_id)
        pair.other.plug()
        wait_for_text(pair, "island-002 begins on 10.77.0.2", run_id)
        left = run(pair.other, [*MULM, "leave"], DEADLINE_S)
        assert left.returncode == 0, left.stderr
        assert joined.wait(10) == 0
        at_leave = newest_step(pair, run_id)
        wait_until(lambda: newest_step(pair, run_id) > at_leave + 50)  # the head goes on alone
        paused = run(pair.head, [*MULM, "runs", "pause", run_id], DEADLINE_S)
        assert paused.returncode == 0, paused.stderr
        _, errors = training.communicate(timeout=DEADLINE_S)
        assert training.returncode == exit_code(StoppedError("x")), errors
    finally:
        pair.other.plug()
        for process in (joined, training):
            process.kill()
            process.communicate()
    assert len(pair.wait_for_nodes(1)) == 1
    assert not pack_of(pair.other).find()


def test_a_member_comes_back_to_a_head_that_died(pair: Pair) -> None:
    joined = pair.join("--name", "laptop")
    try:
        first, laptop = pair.wait_for_nodes(2)
        (gcs,) = (p for p in pack_of(pair.head).find() if p.name() == "gcs_server")
        gcs.kill()  # the keeper starts the application again, at the same address
        end_s = time.monotonic() + 2 * DEADLINE_S
        while len(found := living_ids(pair) - {first["id"]}) < 2:
            assert time.monotonic() < end_s, found
            time.sleep(1.0)
        assert laptop["id"] in found, "it was known again, and had not to join anew"
        assert pair.head.home.joinpath("cluster_state").is_dir()
        left = run(pair.other, [*MULM, "leave"], DEADLINE_S)
        assert left.returncode == 0, left.stderr
        assert joined.wait(30) == 0
    finally:
        joined.kill()
        joined.communicate()
    assert not pack_of(pair.other).find()
