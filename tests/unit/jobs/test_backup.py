"""`mulm backup` and `mulm restore`: all of it comes back, and nothing of what is torn."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import backup as backup_module
from jobs.backup import back_up
from jobs.backup_tar import Header, Writer, is_member
from jobs.progress import Progress
from jobs.restore import check_backup, restore
from mulm.errors import ConflictError, CorruptError, MulmError, NoSpaceError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.run_lock import run_lock
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer

QUIET = Progress(io.StringIO())
RUN = "run_" + "a" * 12


@pytest.fixture
def used(home: Home) -> Home:
    """An installation with two versions, a paused run with checkpoints, a key, a finished step."""
    store, tokenizer = Store(home.store), tiny_tokenizer()
    dataset = tiny_dataset(store, vocab_size=320, tokenizer_fingerprint=tokenizer.fingerprint)
    model = tiny_stored_model(store, tokenizer)
    with Ledger(home.ledger) as facts:
        facts.publish("dataset", "text", dataset.id)
        facts.publish("model", "tiny", model.id)
        facts.set_alias("model", "tiny", "live", 1)
        facts.create_run(RUN, "train", {"name": "tiny"})
        facts.set_phase(RUN, "paused")
        facts.add_key("key_1", "d" * 64, "friend")
    home.key_secret.write_text("s" * 64)
    store.remember("e" * 64, model.id)
    store.put("x", b"nothing needs this")
    home.api_key.write_text("a secret")
    for step in (10, 20):
        folder = home.run(RUN) / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "state.bin").write_bytes(b"s" * step)
        (folder / "checkpoint.json").write_text("{}")
    (home.run(RUN) / "lock").write_text("1")
    (home.run(RUN) / "config.json").write_text("{}")
    return home


def facts_of(home: Home) -> dict[str, Any]:
    with sqlite3.connect(home.ledger) as database:
        tables = [
            row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        found = {t: database.execute(f"SELECT * FROM {t}").fetchall() for t in tables if t[0] != "_"
                 and not t.startswith("sqlite")}  # fmt: skip
    database.close()
    return found


def names_in(file: Path) -> list[str]:
    with tarfile.open(file) as tar:
        return tar.getnames()


@pytest.fixture
def file(used: Home, tmp_path: Path) -> Path:
    back_up(used, tmp_path / "b.tar", QUIET)
    return tmp_path / "b.tar"


def test_uploaded_files_come_back_also_where_only_a_run_reads_them(
    used: Home, tmp_path: Path
) -> None:
    store = Store(used.store)
    kept, read, done = (store.put(name, name.encode()) for name in ("kept", "read", "done"))
    with Ledger(used.ledger) as facts:
        for number in range(2):
            facts.add_file(f"file_{number}", "../x", "batch", kept.size_bytes, kept.sha256)
        for blob, phase in ((read, "paused"), (done, "failed")):
            facts.create_run(f"run_{blob.name}", "prepare", {"sources": [{"sha": blob.sha256}]})
            facts.set_phase(f"run_{blob.name}", phase)  # type: ignore[arg-type]
    back_up(used, tmp_path / "b.tar", QUIET)
    there = Home(tmp_path / "there")
    restore(there, tmp_path / "b.tar", QUIET)
    again = Store(there.store)
    assert [again.read(blob) for blob in (kept, read)] == [b"kept", b"read"]
    with pytest.raises(NotFoundError):
        again.read(done)
    with Ledger(there.ledger) as facts:
        assert [file.sha256 for file in facts.files()] == [kept.sha256] * 2
    store.existing(kept).unlink()
    with pytest.raises(NotFoundError, match=kept.sha256):
        back_up(used, tmp_path / "c.tar", QUIET)


def test_all_that_was_named_comes_back(used: Home, file: Path, tmp_path: Path) -> None:
    there = Home(tmp_path / "there")
    told = restore(there, file, QUIET)
    assert told["moved_to"] is None
    assert facts_of(there) == facts_of(used)
    with Ledger(there.ledger) as facts:
        store = Store(there.store)
        for kind, name in (("dataset", "text"), ("model", "tiny")):
            (version,) = facts.versions(kind, name)  # type: ignore[arg-type]
            store.paths(store.load(version.manifest_id).blobs)  # each is hashed
        assert store.recall("e" * 64) is not None
    assert there.key_secret.read_text() == "s" * 64
    checkpoint = there.run(RUN) / "checkpoints" / "step-20"
    assert (checkpoint / "state.bin").read_bytes() == b"s" * 20
    assert oct(there.root.stat().st_mode)[-3:] == "700"
    assert oct(there.ledger.stat().st_mode)[-3:] == "600"
    assert [p.name for p in there.root.iterdir() if p.name.startswith((".", "before"))] == []


def test_what_does_not_belong_is_left_out(used: Home, file: Path) -> None:
    names = names_in(file)
    assert "a secret" not in file.read_bytes().decode("latin-1")
    assert not [name for name in names if name.endswith(("lock", "api_key"))]
    needed = [name for name in names if name.startswith("store/blobs")]
    assert len(needed) == len(set(needed)) == len(list(used.store.glob("blobs/*/*"))) - 1
    assert oct(file.stat().st_mode)[-3:] == "600"


def test_what_is_uploaded_and_in_a_version_is_there_once(used: Home, tmp_path: Path) -> None:
    with Ledger(used.ledger) as facts:
        model = Store(used.store).load(facts.versions("model")[0].manifest_id)
        blob = model.blobs[0]
        facts.add_file("file_1", "notes.txt", "dataset", blob.size_bytes, blob.sha256)
    back_up(used, tmp_path / "b.tar", QUIET)
    names = names_in(tmp_path / "b.tar")
    assert len(names) == len(set(names))
    restore(Home(tmp_path / "there"), tmp_path / "b.tar", QUIET)


def test_checkpoints_can_be_left_out(used: Home, tmp_path: Path) -> None:
    back_up(used, tmp_path / "b.tar", QUIET, with_checkpoints=False)
    runs = [name for name in names_in(tmp_path / "b.tar") if name.startswith("runs/")]
    assert runs == [f"runs/{RUN}/config.json"]


def test_a_backup_while_others_write_is_of_one_moment(used: Home, tmp_path: Path) -> None:
    """Each event is beside a row of its run in every backup, though both are being written."""
    stop = threading.Event()

    def write() -> None:
        with Ledger(used.ledger) as facts:
            for number in range(10_000):
                if stop.is_set():
                    return
                facts.create_run(f"run_{number:012}", "train", {"n": number})
                facts.set_phase(f"run_{number:012}", "running")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        counts = []
        for number in range(3):
            back_up(used, tmp_path / f"{number}.tar", QUIET)
            there = Home(tmp_path / f"home{number}")
            restore(there, tmp_path / f"{number}.tar", QUIET)
            found = facts_of(there)
            runs = {row[0] for row in found["runs"]}
            assert {row[0] for row in found["events"]} <= runs
            counts.append(len(runs))
    finally:
        stop.set()
        thread.join()
    assert counts == sorted(counts)


def test_every_way_to_tear_it_is_refused_and_changes_nothing(file: Path, tmp_path: Path) -> None:
    whole, there = file.read_bytes(), Home(tmp_path / "there")
    step = max(1, len(whole) // 60)
    for size in range(0, len(whole.rstrip(b"\0")), step):  # tar ends with any number of zeros
        file.write_bytes(whole[:size])
        with pytest.raises(CorruptError, match="no whole backup"):
            restore(there, file, QUIET)
    rest = [path for path in there.root.rglob("*") if path.name != "up.lock"]
    assert rest == []


def test_every_changed_byte_is_noticed(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    with tarfile.open(file) as tar:  # bytes of contents; those of tar's own fields have sums too
        places = [m.offset_data + m.size // 2 for m in tar.getmembers() if m.size]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(CorruptError):
            check_backup(file, QUIET)
    file.write_bytes(whole)
    assert check_backup(file, QUIET)["files"] == len(places) - 3


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/passwd", "store/blobs/aa/../../x", "runs/run_1/../../x", "runs/run_1/.x",
        "store/manifests/nonsense.json", f"store/blobs/bb/{'a' * 64}", "api_key", "runs/run_1",
        "ledger.sqlite/x", "store/steps/x.json",
    ],
)  # fmt: skip
def test_other_names_are_no_members(name: str) -> None:
    assert not is_member(name)


def forged(path: Path, add: Callable[[tarfile.TarFile], None]) -> Path:
    header = Header(code_version="1", created_s=0.0, size_bytes=1000).model_dump_json().encode()
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("backup.json")
        info.size = len(header)
        tar.addfile(info, io.BytesIO(header))
        add(tar)
    return path


def test_links_and_foreign_files_are_refused(tmp_path: Path) -> None:
    def link(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("ledger.sqlite")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)

    def foreign(tar: tarfile.TarFile) -> None:
        tar.addfile(tarfile.TarInfo("../evil"))

    def twice(tar: tarfile.TarFile) -> None:
        tar.addfile(tarfile.TarInfo("key_secret"))
        tar.addfile(tarfile.TarInfo("key_secret"))

    def larger_than_it_says(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("ledger.sqlite")
        info.size = 2000
        tar.addfile(info, io.BytesIO(b"x" * 2000))

    for number, add in enumerate((link, foreign, twice, larger_than_it_says)):
        path = forged(tmp_path / f"{number}.tar", add)
        with pytest.raises(CorruptError, match="does not belong there"):
            restore(Home(tmp_path / "there"), path, QUIET)
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 1000)
    with pytest.raises(CorruptError, match="no whole backup"):
        check_backup(tmp_path / "x.tar", QUIET)
    with pytest.raises(NotFoundError):
        check_backup(tmp_path / "nowhere.tar", QUIET)


def test_a_sealed_backup_whose_ledger_is_none_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"no database" * 100, None)):
        path = tmp_path / f"{number}.tar"
        with path.open("wb") as target:
            header = Header(code_version="1", created_s=0.0, size_bytes=5000)
            with Writer(target, header) as writer:
                if content is not None:
                    writer.add("ledger.sqlite", io.BytesIO(content), len(content))
                writer.seal()
        there = Home(tmp_path / "there")
        if content == b"":  # an empty file is an empty database
            restore(there, path, QUIET)
            continue
        with pytest.raises(CorruptError, match="ledger"):
            restore(there, path, QUIET)


def test_data_is_not_touched_without_saying_so_and_then_moved_aside(used: Home, file: Path) -> None:
    with Ledger(used.ledger) as facts:
        facts.create_run("run_" + "b" * 12, "train", {})
        facts.set_phase("run_" + "b" * 12, "failed")
    before = facts_of(used)
    with pytest.raises(ConflictError, match="there is data") as caught:
        restore(used, file, QUIET)
    assert "--replace" in caught.value.hint
    assert facts_of(used) == before
    told = restore(used, file, QUIET, replaces=True)
    assert len(facts_of(used)["runs"]) == 1
    aside = Home(Path(told["moved_to"]))
    assert facts_of(aside) == before
    assert (aside.run(RUN) / "config.json").exists()
    assert used.api_key.read_text() == "a secret"  # what is not in a backup stays
    assert used.key_secret.read_text() == aside.key_secret.read_text() == "s" * 64


def test_keys_of_clients_alone_are_data_too(file: Path, tmp_path: Path) -> None:
    there = Home(tmp_path / "there").create()
    with Ledger(there.ledger) as facts:
        facts.add_key("key_9", "f" * 64, "first")
    restore(there, file, QUIET)  # the first key is made again by `mulm up`
    again = Home(tmp_path / "again").create()
    with Ledger(again.ledger) as facts:
        facts.add_key("key_9", "f" * 64, "a client")
    with pytest.raises(ConflictError):
        restore(again, file, QUIET)


def test_a_run_under_way_keeps_its_home(used: Home, file: Path) -> None:
    store = used.store
    store.rename(used.root / "elsewhere")
    with run_lock(used, RUN), pytest.raises(ConflictError, match="under way"):
        restore(used, file, QUIET, replaces=True)


def test_what_is_damaged_or_missing_makes_no_backup(used: Home, tmp_path: Path) -> None:
    target = tmp_path / "b.tar"
    with Ledger(used.ledger) as facts:
        store = Store(used.store)
        blob = store.load(facts.versions("model")[0].manifest_id).blobs[0]
    path = store.existing(blob)
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"x" + content[1:])
    with pytest.raises(CorruptError, match="damaged"):
        back_up(used, target, QUIET)
    path.unlink()
    with pytest.raises(NotFoundError, match="missing"):
        back_up(used, target, QUIET)
    assert back_up(used, tmp_path / "o.tar", QUIET, has_origin=True)["versions"] >= 2
    assert not target.exists()
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with pytest.raises(ConflictError):
        back_up(used, tmp_path / "o.tar", QUIET)
    with pytest.raises(NotFoundError):
        back_up(Home(tmp_path / "nobody"), target, QUIET)
    with pytest.raises(NotFoundError, match="no such folder"):
        back_up(used, tmp_path / "no" / "b.tar", QUIET)


def test_a_checkpoint_that_goes_meanwhile_is_left_out_whole(
    used: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint takes the place of the oldest while the backup is being written."""
    seen = backup_module.Writer.add

    def add(writer: Writer, name: str, *rest: Any) -> str:
        (used.run(RUN) / "checkpoints" / "step-10" / "state.bin").unlink(missing_ok=True)
        with (used.run(RUN) / "config.json").open("a") as growing:
            growing.write(" " * 1000)
        return seen(writer, name, *rest)

    monkeypatch.setattr(backup_module.Writer, "add", add)
    back_up(used, tmp_path / "b.tar", QUIET)
    names = [name for name in names_in(tmp_path / "b.tar") if "checkpoints" in name]
    assert {name.split("/")[3] for name in names} == {"step-20"}
    assert check_backup(tmp_path / "b.tar", QUIET)["files"] > 0


def test_a_full_disk_changes_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: Store, _size_bytes: int) -> None:
        raise NoSpaceError("full")

    monkeypatch.setattr(Store, "require_space", full)
    there = Home(tmp_path / "there")
    with pytest.raises(MulmError, match="full"):
        restore(there, file, QUIET)
    assert not there.ledger.exists()


def test_a_restore_that_is_killed_between_its_moves_can_be_done_again(
    used: Home, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, renamed = facts_of(used), Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.parent.name.startswith(".restore-") and path.name == "ledger.sqlite":
            raise KeyboardInterrupt
        return renamed(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            restore(used, file, QUIET, replaces=True, clock=lambda: 0.0)
    aside = Home(used.root / "before-restore-19700101-000000")
    assert facts_of(aside) == expected
    restore(used, file, QUIET, replaces=True)
    assert facts_of(used) == expected


def test_a_backup_of_nothing_says_so(mulm: Any) -> None:
    Ledger(mulm.home.create().ledger).close()
    code, out, err = mulm("backup", "b.tar")
    assert code == 0, err
    assert "no version and no run is in it" in err
    assert str(mulm.home.root) in err
    assert "no version and no run" not in out
    assert "no version" not in mulm("backup", "c.tar", "-q")[2]


def test_the_commands(used: Home, mulm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULM_HOME", str(used.root))
    told = mulm.json("backup", "b.tar")
    assert told["versions"] >= 2
    assert "no version and no run" not in mulm("backup", "again.tar")[2]
    assert told["backup"] == str(mulm.folder / "b.tar")
    monkeypatch.setenv("MULM_HOME", str(mulm.folder / "there"))
    code, out, err = mulm("restore", "b.tar", "--check")
    assert code == 0, err
    assert "is whole" in out
    assert not (mulm.folder / "there").exists()
    assert mulm.json("restore", "b.tar")["home"] == str(mulm.folder / "there")
    assert mulm("restore", "b.tar")[0] == 9
    code, out, err = mulm("restore", "b.tar", "--replace")
    assert code == 0
    assert "before-restore-" in err
    assert [row["ref"] for row in mulm.json("model", "ls")] == ["tiny@1"]
    assert json.dumps(mulm.json("gc", "--dry-run")) == json.dumps(
        mulm.json("data", "gc", "--dry-run")
    )
    (mulm.folder / "b.tar").write_bytes(b"")
    assert mulm("restore", "b.tar", "--check")[0] == 5
