"""What older versions wrote opens with this one, and half an upgrade is none."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from mulm.accounts import UsageRow
from mulm.damage import verify
from mulm.errors import ConfigError
from mulm.ledger import Ledger
from mulm.ledger_schema import VERSION, migration, open_database
from mulm.model.checkpoint import newest_checkpoint
from mulm.records import Answered, Claim
from mulm.refs import Ref
from mulm.store import Store

ROOT = Path(__file__).parents[2]
HOMES = sorted((ROOT / "tests/fixtures/homes").glob("*.tar.xz"))
SCHEMA_SHA256 = {
    1: "aabe812895a64705f4030f8237a4b16532e770c8af43fa7aa96a0b130d0811c7",
    2: "6d9cb0de509e481939855d47ebfc4f115df34ba2962256e157591b40ab9278b7",
}
"""The statements of each version. A change is a new version, with a line here and a home in
`tests/fixtures/homes`."""


@pytest.fixture(params=HOMES, ids=lambda path: path.name.partition(".")[0])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "home"


def number_of(request: pytest.FixtureRequest) -> int:
    return int(request.node.callspec.id[:2])


def test_all_facts_of_an_older_home_are_there_and_new_ones_can_be_added(
    old: Path, request: pytest.FixtureRequest
) -> None:
    with Ledger(old / "ledger.sqlite") as facts:
        assert [v.ref for v in facts.versions("dataset", "books")] == ["books@1", "books@2"]
        assert facts.resolve("dataset", Ref("books", alias="live")).number == 1
        moves = facts.alias_history("dataset", "books", "live")
        assert [move.number for move in moves] == [1, 2]
        done, cut = facts.run("run_done"), facts.run("run_cut")
        assert (done.phase, done.result, cut.phase) == ("succeeded", {"loss": 1.5}, "running")
        events = facts.events("run_done", kinds=["metric"])
        assert [event.data["step"] for event in events] == [1, 2, 3]
        first = facts.key("key_first")
        assert (first.name, first.scope, first.expires_s) == ("first", "all", None)
        newer = number_of(request)
        assert [key.scope for key in facts.valid_keys()] == ["all", "inference"][: 1 + (newer > 2)]
        assert [file.id for file in facts.files()] == ["file_1"][: newer > 4]
        assert [d.name for d in facts.deployments()] == ["assistant"][: newer > 6]
        assert [said.comment for said in facts.feedback()] == ["too short"][: newer > 11]
        add_one_of_each(facts)


def add_one_of_each(facts: Ledger) -> None:
    """What each table that came later is for."""
    facts.add_key("key_new", "9" * 64, "new", "inference")
    facts.add_file("file_new", "b.jsonl", "batch", 1, "8" * 64)
    facts.set_deployment("other", {"model": "books@1"}, "serve books@1")
    answered = Answered("other", ({"role": "user", "content": "Hi"},), "Hello")
    assert facts.give_feedback("fb_new", "key_new", answered, "up").verdict == "up"
    assert facts.claim_answer(Claim("key_new", "k", "mine"), "d", 10.0) is None
    used = UsageRow("key_new", "other", 0, 1, 2, 3)
    assert facts.add_usage("engine_new", 1, [used])["key_new"] == 5
    assert used in facts.usage("key_new")
    facts.add_audit("key_new", "req_new", "POST", "/api/v1/keys", "key_other", "201")
    assert facts.audit("key_new")[0].subject == "key_other"
    before = facts.last_happening()
    facts.set_phase("run_cut", "failed", error={"code": "job_failed"})
    assert [h.subject for h in facts.happenings(before)] == ["run_cut"]
    facts.remove_version("dataset", "books", 2)


def test_the_store_and_the_checkpoint_of_an_older_home_are_whole(
    old: Path, request: pytest.FixtureRequest
) -> None:
    store = Store(old / "store")
    with Ledger(old / "ledger.sqlite") as facts:
        ids = [version.manifest_id for version in facts.versions("dataset")]
    assert verify(store, ids) == []
    recalled = store.recall("a" * 64)
    assert recalled is not None
    assert recalled.id == ids[0]
    checkpoint = newest_checkpoint(old / "runs" / "run_cut" / "checkpoints")
    assert (checkpoint is None) == (number_of(request) == 1)  # it knew none yet
    if checkpoint is not None:
        assert (checkpoint.step, checkpoint.state) == (7, {"seed": 1})


def test_an_upgrade_that_is_cut_after_any_statement_changes_nothing(
    old: Path, request: pytest.FixtureRequest
) -> None:
    path = old / "ledger.sqlite"
    before = dump(path)
    with closing(open_copy(path, old / "probe.sqlite")) as copy:
        n_statements = len(list(migration(copy)))
    for n_done in range(0, n_statements, 5):
        with closing(sqlite3.connect(path)) as database:
            database.execute("BEGIN IMMEDIATE")
            for number, statement in enumerate(migration(database)):
                if number == n_done:
                    break  # closing without a commit is what a dead process leaves
                database.execute(statement)
        assert dump(path) == before
    Ledger(path).close()
    assert (dump(path) == before) == (number_of(request) == len(HOMES))


KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from mulm import ledger_schema

def killed(database):
    for number, statement in enumerate(whole(database)):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield statement

whole, ledger_schema.migration = ledger_schema.migration, killed
ledger_schema.open_database(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("n_done", [1, 15, 31])
def test_a_process_killed_in_the_midst_of_an_upgrade_leaves_the_old_database(
    n_done: int, tmp_path: Path
) -> None:
    with tarfile.open(HOMES[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "home" / "ledger.sqlite"
    before = dump(path)
    command = [sys.executable, "-c", KILLED, str(path), str(n_done)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=env, timeout=60).returncode == -signal.SIGKILL
    assert dump(path) == before
    with Ledger(path) as facts:
        assert facts.files() == []


def test_a_database_of_a_newer_version_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    before = dump(path)
    with pytest.raises(ConfigError, match="newer version"):
        Ledger(path)
    assert dump(path) == before


def test_a_database_of_this_version_is_opened_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as first, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")  # whoever wrote now would wait
        open_database(path).close()
        other.rollback()
        assert first.runs() == []


def test_the_schema_changes_with_its_version_only() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        statements = list(migration(database))
    text = "\n".join(statements).encode()
    assert hashlib.sha256(text).hexdigest() == SCHEMA_SHA256[VERSION]
    assert f"schema-{VERSION}" in HOMES[-1].name


def dump(path: Path) -> list[str]:
    """Everything that stands in a database."""
    with closing(sqlite3.connect(path)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        return [str(version), *database.iterdump()]


def open_copy(path: Path, to: Path) -> sqlite3.Connection:
    shutil.copy(path, to)
    return sqlite3.connect(to)
