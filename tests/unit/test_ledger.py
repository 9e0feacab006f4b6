from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from mulm.errors import ConfigError, ConflictError, NotFoundError
from mulm.ledger import Ledger
from mulm.records import Alias
from mulm.refs import Ref

ID = "ds_" + "0" * 24
OTHER = "ds_" + "1" * 24


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ticks = count(1)
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: float(next(ticks)))
    yield ledger
    ledger.close()


def test_publish_counts_and_is_idempotent(ledger: Ledger) -> None:
    first = ledger.publish("dataset", "books", ID)
    assert ledger.publish("dataset", "books", OTHER).ref == "books@2"
    assert ledger.publish("dataset", "books", ID) == first
    assert ledger.publish("model", "books", ID).ref == "books@1"
    assert [v.ref for v in ledger.versions("dataset")] == ["books@1", "books@2"]
    assert ledger.versions("dataset", "other") == []


def test_resolve(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    ledger.publish("dataset", "books", OTHER)
    ledger.set_alias("dataset", "books", "live", 1)
    assert ledger.resolve("dataset", Ref("books")).number == 2
    assert ledger.resolve("dataset", Ref("books", version=1)).manifest_id == ID
    assert ledger.resolve("dataset", Ref("books", alias="live")).number == 1
    ledger.set_alias("dataset", "books", "live", 2)
    assert ledger.aliases("dataset", "books") == {"live": 2}


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        (Ref("boks"), "did you mean 'books'?"),
        (Ref("books", version=9), "'books@1'"),
        (Ref("books", alias="lives"), "'books@live'"),
    ],
)
def test_not_found_names_the_nearest(ledger: Ledger, ref: Ref, hint: str) -> None:
    ledger.publish("dataset", "books", ID)
    ledger.set_alias("dataset", "books", "live", 1)
    with pytest.raises(NotFoundError) as caught:
        ledger.resolve("dataset", ref)
    assert hint in caught.value.hint


def test_an_alias_points_to_something(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    with pytest.raises(NotFoundError):
        ledger.set_alias("dataset", "books", "live", 2)
    with pytest.raises(ConfigError):
        ledger.set_alias("dataset", "books", "2", 1)
    with pytest.raises(ConfigError):
        ledger.publish("dataset", "../books", ID)


def test_the_life_of_a_run(ledger: Ledger) -> None:
    run = ledger.create_run("run_1", "train", {"steps": 1})
    assert (run.phase, run.has_ended) == ("queued", False)
    ledger.set_phase("run_1", "running")
    assert ledger.create_run("run_1", "other", {}).config == {"steps": 1}
    ledger.set_phase("run_1", "succeeded", result={"loss": 1.5})
    run = ledger.run("run_1")
    assert (run.has_ended, run.result, run.error) == (True, {"loss": 1.5}, None)
    assert [e.data["phase"] for e in ledger.events("run_1")] == ["running", "succeeded"]
    ledger.create_run("run_2", "prepare", {})
    assert [r.id for r in ledger.runs()] == ["run_2", "run_1"]
    assert [r.id for r in ledger.runs("train")] == ["run_1"]


def test_an_unknown_run(ledger: Ledger) -> None:
    ledger.create_run("run_abc", "train", {})
    with pytest.raises(NotFoundError, match="run_abd") as caught:
        ledger.run("run_abd")
    assert "run_abc" in caught.value.hint
    with pytest.raises(NotFoundError):
        ledger.set_phase("run_x", "failed")


def test_events_of_many_threads_have_no_gap(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {})

    def append(thread: int) -> None:
        for number in range(20):
            ledger.append_events("run_1", [("a", {"t": thread}), ("b", {"n": number})])

    threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = ledger.events("run_1")
    assert [e.seq for e in events] == list(range(1, 161))
    assert [e.kind for e in events] == ["a", "b"] * 80


def test_events_of_two_owners_have_no_gap(tmp_path: Path) -> None:
    """Two processes may have the file open, such as the command line's and the application's."""
    with Ledger(tmp_path / "ledger.sqlite") as first, Ledger(tmp_path / "ledger.sqlite") as second:
        first.create_run("run_1", "train", {})

        def append(ledger: Ledger) -> None:
            for _ in range(20):
                ledger.append_events("run_1", [("a", {})])
                ledger.set_phase("run_1", "running")

        with ThreadPoolExecutor() as pool:
            list(pool.map(append, (first, second)))
        assert [e.seq for e in second.events("run_1")] == list(range(1, 81))


def test_a_run_goes_on_with_another_config(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {"workers": 1})
    ledger.set_config("run_1", {"workers": 2})
    assert ledger.run("run_1").config == {"workers": 2}
    with pytest.raises(NotFoundError):
        ledger.set_config("run_2", {})


def test_a_block_closes_it(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.runs() == []
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        ledger.runs()


def test_events_in_pages(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {})
    assert ledger.append_events("run_1", [("metric", {"step": n}) for n in range(5)]) == 5
    assert [e.seq for e in ledger.events("run_1", after=2, limit=2)] == [3, 4]
    assert ledger.append_events("run_1", []) == 5


def test_an_event_that_cannot_be_kept_leaves_no_half(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {})
    with pytest.raises(TypeError):
        ledger.append_events("run_1", [("a", {}), ("b", {"x": object()})])
    assert ledger.events("run_1") == []


def test_keys(ledger: Ledger) -> None:
    ledger.add_key("key_1", "d1", "first")
    with pytest.raises(ConflictError):
        ledger.add_key("key_2", "d1", "again")
    assert {d: key.id for d, key in ledger.key_secrets().items()} == {"d1": "key_1"}


def test_what_was_said_survives_reopening(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    first = Ledger(path)
    first.publish("dataset", "books", ID)
    second = Ledger(path)  # the first was killed: it never closed
    assert second.resolve("dataset", Ref("books")).manifest_id == ID
    second.close()
    first.close()


def test_a_removed_number_is_never_given_again(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    ledger.publish("dataset", "books", OTHER)
    ledger.remove_version("dataset", "books", 2)
    assert [v.ref for v in ledger.versions("dataset")] == ["books@1"]
    assert ledger.publish("dataset", "books", OTHER).ref == "books@3"
    assert ledger.publish("model", "books", OTHER).ref == "books@1"
    for number in (2, 9):
        with pytest.raises(NotFoundError, match=f"books@{number}"):
            ledger.remove_version("dataset", "books", number)
        with pytest.raises(NotFoundError, match=f"books@{number}"):
            ledger.set_alias("dataset", "books", "live", number)
    for number in (1, 3):
        ledger.remove_version("dataset", "books", number)
    assert ledger.publish("dataset", "books", ID).ref == "books@4"


def test_what_an_alias_points_to_is_not_removed(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    ledger.publish("dataset", "books", OTHER)
    ledger.set_alias("dataset", "books", "live", 1)
    with pytest.raises(ConflictError, match="books@1 is books@live"):
        ledger.remove_version("dataset", "books", 1)
    ledger.set_alias("dataset", "books", "live", 2)
    ledger.remove_version("dataset", "books", 1)
    assert ledger.aliases("dataset", "books") == {"live": 2}


def test_names_of_a_manifest_and_all_aliases(ledger: Ledger) -> None:
    for kind, name in (("dataset", "books"), ("dataset", "novels"), ("model", "books")):
        ledger.publish(kind, name, ID)  # type: ignore[arg-type]
    assert [(v.kind, v.ref) for v in ledger.published_as(ID)] == [
        ("dataset", "books@1"), ("dataset", "novels@1"), ("model", "books@1"),
    ]  # fmt: skip
    assert ledger.published_as(OTHER) == []
    ledger.set_alias("model", "books", "live", 1)
    ledger.set_alias("dataset", "novels", "best", 1)
    assert [alias.ref for alias in ledger.all_aliases()] == ["novels@best", "books@live"]
    assert ledger.all_aliases("model") == [Alias("model", "books", "live", 1)]


def test_a_database_from_before_removals_opens_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.publish("dataset", "books", ID)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE removed")
        database.execute("PRAGMA user_version = 0")
    with Ledger(path) as ledger:
        assert ledger.publish("dataset", "books", OTHER).ref == "books@2"
        ledger.remove_version("dataset", "books", 2)


def test_a_phase_moves_only_from_those_that_are_named(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {})
    ledger.set_phase("run_1", "running", only_from=["queued"])
    with pytest.raises(ConflictError, match="run_1 is running by now"):
        ledger.set_phase("run_1", "pausing", only_from=("paused", "queued"))
    assert ledger.run("run_1").phase == "running"
    assert [e.data["phase"] for e in ledger.events("run_1")] == ["running"]
    with pytest.raises(NotFoundError):
        ledger.set_phase("run_x", "paused", only_from=["running"])


def test_a_paused_run_rests_but_has_not_ended(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {})
    ledger.set_phase("run_1", "paused")
    run = ledger.run("run_1")
    assert (run.is_resting, run.has_ended) == (True, False)


def test_events_of_some_kinds(ledger: Ledger) -> None:
    ledger.create_run("run_1", "train", {})
    assert ledger.last_event("run_1") is None
    ledger.append_events("run_1", [("a" if n % 2 else "b", {"n": n}) for n in range(6)])
    assert [e.data["n"] for e in ledger.events("run_1", kinds=("a",))] == [1, 3, 5]
    assert [e.seq for e in ledger.events("run_1", after=2, limit=2, kinds=["a", "b"])] == [3, 4]
    assert ledger.events("run_1", kinds=("c",)) == []
    for kind, number in ((None, 5), ("b", 4)):
        event = ledger.last_event("run_1", kind)
        assert event is not None
        assert event.data == {"n": number}
    assert ledger.last_event("run_1", "c") is None


def test_keys_have_a_scope_and_an_older_database_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE keys (id TEXT PRIMARY KEY, digest TEXT UNIQUE NOT NULL,"
            " name TEXT NOT NULL, created_s REAL NOT NULL)"
        )
        old.execute("INSERT INTO keys VALUES ('key_1', 'd1', 'first', 1.0)")
    old.close()
    with Ledger(path) as ledger:
        ledger.add_key("key_2", "d2", "friend", "inference")
        assert [(key.id, key.scope) for key in ledger.valid_keys()] == [
            ("key_1", "all"), ("key_2", "inference"),
        ]  # fmt: skip
        ledger.remove_key("key_1")
        assert list(ledger.key_secrets()) == ["d2"]
        with pytest.raises(NotFoundError):
            ledger.key("key_1")
        with pytest.raises(NotFoundError):
            ledger.remove_key("key_1")


def test_an_alias_moves_only_from_where_it_was_seen(ledger: Ledger) -> None:
    for number in (1, 2):
        ledger.publish("model", "m", f"mdl_{number:064x}")
    ledger.set_alias("model", "m", "live", 1, only_from=0)
    for seen in (0, 2):
        with pytest.raises(ConflictError):
            ledger.set_alias("model", "m", "live", 2, only_from=seen)
    ledger.set_alias("model", "m", "live", 2, only_from=1)
    assert [past.number for past in ledger.alias_history("model", "m", "live")] == [2, 1]


def test_runs_come_in_pages_also_where_they_were_made_at_once(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: 5.0) as ledger:
        for number in range(7):
            ledger.create_run(f"run_{number}", "train" if number % 2 else "evaluate", {})
        seen: list[str] = []
        while more := ledger.runs(after=seen[-1] if seen else None, limit=2):
            seen += [run.id for run in more]
        assert seen == [run.id for run in ledger.runs()]
        assert len(ledger.runs("train", "queued")) == 3
        assert ledger.runs(phase="failed") == []


@pytest.mark.parametrize(("kind", "how"), [("dataset", "mulm data build"), ("model", "mulm train")])
def test_where_there_is_nothing_it_says_how_to_make_the_first(ledger, kind, how):
    with pytest.raises(NotFoundError) as caught:
        ledger.resolve(kind, Ref("books"))
    assert str(caught.value.hint).startswith("there are none yet: ")
    assert how in str(caught.value.hint)


def noted(ledger: Ledger) -> list[str]:
    return [row.subject for row in ledger.audit()]


NOTE = ("user:me", "", "CLI", "mulm data rm", "books@1", "done")


def test_names_go_together_with_what_is_noted_of_it(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    ledger.publish("tokenizer", "books", OTHER)
    ledger.remove_versions([("dataset", "books", 1), ("tokenizer", "books", 1)], noted=NOTE)
    assert ledger.versions("dataset") == ledger.versions("tokenizer") == []
    assert noted(ledger) == ["books@1"]


def test_of_several_names_none_goes_where_one_may_not(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    ledger.publish("tokenizer", "books", OTHER)
    ledger.set_alias("tokenizer", "books", "good", 1)
    before = ledger.last_happening()
    with pytest.raises(ConflictError, match="books@1 is books@good"):
        ledger.remove_versions([("dataset", "books", 1), ("tokenizer", "books", 1)], noted=NOTE)
    with pytest.raises(NotFoundError, match="books@2"):
        ledger.remove_versions([("dataset", "books", 1), ("tokenizer", "books", 2)], noted=NOTE)
    assert [one.ref for one in ledger.versions("dataset")] == ["books@1"]
    assert (ledger.last_happening(), noted(ledger)) == (before, [])


def test_names_go_only_where_nothing_has_moved(ledger: Ledger) -> None:
    ledger.publish("dataset", "books", ID)
    looked = ledger.last_happening()
    ledger.add_key("key_1", "d1", "which changes nothing of it")
    ledger.create_run("run_1", "train", {"dataset": "books@1"})
    with pytest.raises(ConflictError, match="run_1 has moved meanwhile"):
        ledger.remove_versions([("dataset", "books", 1)], only_at=looked)
    looked = ledger.last_happening()
    ledger.add_key("key_2", "d2", "nor does this")
    ledger.remove_versions([("dataset", "books", 1)], only_at=looked)
    assert ledger.versions("dataset") == []


def test_what_is_done_together_is_done_whole_or_not(ledger: Ledger) -> None:
    with ledger.together():
        ledger.publish("dataset", "books", ID)
        ledger.add_audit(*NOTE)
        assert ledger.published_as(ID), "what was written inside is read inside"

    def half() -> None:
        with ledger.together():
            ledger.add_audit(*NOTE)
            ledger.remove_version("dataset", "books", 2)

    with pytest.raises(NotFoundError):
        half()
    assert len(noted(ledger)) == 1
    ledger.remove_version("dataset", "books", 1)  # the transaction has ended
    assert ledger.versions("dataset") == []


def test_it_is_closed_behind_the_query_under_way(tmp_path: Path) -> None:
    """Else SQLite frees what another thread reads, which ends the process."""
    for number in range(20):
        ledger = Ledger(tmp_path / f"{number}.sqlite")
        for each in range(200):
            ledger.add_key(f"key_{each}", f"d{each}", f"some {each}")
        has_begun = threading.Event()

        def read(ledger: Ledger = ledger, has_begun: threading.Event = has_begun) -> None:
            for _ in range(10_000):
                ledger.key_secrets()
                has_begun.set()

        with ThreadPoolExecutor() as pool:
            reading = pool.submit(read)
            has_begun.wait(10)
            ledger.close()
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                reading.result(10)
