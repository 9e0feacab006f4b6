"""Two machines: what is refused, and one model through a lost cable until one leaves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.processes import Pack
from jobs.exit_codes import exit_code
from mulm.errors import AuthError, ConfigError, NotRunningError
from mulm.home import Home
from mulm.join_token import join_token
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from tests.cluster.machines import Machine, needs_namespaces, run, two_machines

pytestmark = [pytest.mark.cluster, needs_namespaces]

ROOT = Path(__file__).parents[2]
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
MULM = [sys.executable, "-c", "from jobs.cli import main; main()"]
DEADLINE_S = 300.0


@dataclass
class Pair:
    """A head that is up, and a machine that knows the line to paste."""

    head: Machine
    other: Machine
    address: str
    token: str

    def nodes(self) -> list[dict[str, Any]]:
        done = run(self.head, [*MULM, "cluster", "nodes", "--json"], DEADLINE_S)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return [node for node in found if node["is_alive"]]

    def wait_for_nodes(self, count: int) -> list[dict[str, Any]]:
        end_s = time.monotonic() + DEADLINE_S
        while len(nodes := self.nodes()) != count:
            assert time.monotonic() < end_s, f"{nodes} are not {count} machines"
            time.sleep(0.5)
        return nodes

    def join(self, *more: str) -> subprocess.Popen[str]:
        command = [*MULM, "join", self.address, "--token", self.token, *more]
        return subprocess.Popen(
            self.other.command(*command), env=self.other.env(), stderr=subprocess.PIPE, text=True
        )

    def train(self, config: Path) -> subprocess.Popen[str]:
        """A run on islands that takes a minute or so."""
        config.write_text(json.dumps({
            "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 3000,
            "batch_tokens": 128, "seq_len": 16, "log_every": 50, "validate_every": 2000,
            "checkpoint_every": 500, "device": "cpu", "precision": "fp32", "samples": None,
            "sync": "diloco", "diloco": {"round_s": 0.5, "grace_s": 1.0},
        }))  # fmt: skip
        return subprocess.Popen(
            self.head.command(*MULM, "train", str(config), "--json"), env=self.head.env(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with two_machines(folder) as (head, other):
        done = run(head, [*MULM, "up", "--lan", head.address, "--json"], DEADLINE_S)
        try:
            assert done.returncode == 0, done.stderr
            line = json.loads(done.stdout.splitlines()[-1])["join"].split()
            assert line[:2] == ["mulm", "join"]
            yield Pair(head, other, line[2], line[4])
        finally:
            run(other, [*MULM, "leave"], DEADLINE_S)
            run(head, [*MULM, "down"], DEADLINE_S)


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
        run_id = wait_for_text(pair, "begins on 10.77.0.2")
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
        out, errors = training.communicate(timeout=2 * DEADLINE_S)
        assert training.returncode == 0, errors
    finally:
        pair.other.plug()
        for process in (joined, training):
            process.kill()
            process.communicate()
    assert json.loads(out.splitlines()[-1])["steps"] == 3000
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


def living_ids(pair: Pair) -> set[str]:
    """The ids of those that live; none while nobody answers."""
    done = run(pair.head, [*MULM, "cluster", "nodes", "--json"], DEADLINE_S)
    nodes = json.loads(done.stdout) if done.returncode == 0 else []
    return {node["id"] for node in nodes if node["is_alive"]}


def title(process: psutil.Process) -> str:
    """What a process calls itself; nothing where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.2)


def pack_of(machine: Machine) -> Pack:
    return Pack(Home(machine.home))


def commands_of(machine: Machine) -> str:
    """The command lines of all that runs there."""
    return "\n".join(map(title, pack_of(machine).find()))


def wait_for_text(pair: Pair, word: str, run_id: str = "") -> str:
    """Until a run's log has it; the run's id."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with Ledger(pair.head.home / "ledger.sqlite") as ledger:
            for run_ in ledger.runs():
                texts = [str(e.data.get("text")) for e in ledger.events(run_.id, kinds=("log",))]
                if run_id in {"", run_.id} and any(word in text for text in texts):
                    return run_.id
        time.sleep(0.3)
    pytest.fail(f"no run said {word!r}")
