"""Following a run of a server: over broken connections, to its true end, out again by Ctrl-C."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from collections.abc import Generator
from typing import Any

import httpx
import pytest

from jobs.progress import Progress
from jobs.remote import Remote
from jobs.remote_follow import happening, newest_phase, start_and_follow
from jobs.remote_runs import RemoteRuns, _told
from mulm.errors import (
    DataError,
    NotRunningError,
    StoppedError,
    UnreachableError,
)
from mulm.records import Event
from mulm.testing import TINY_SHAPE, tiny_dataset
from serve_app.key_text import digest_of

CONFIG = {
    "name": "demo", "dataset": "tiny@1", "model": TINY_SHAPE, "steps": 30, "batch_tokens": 64,
    "seq_len": 16, "device": "cpu",
}  # fmt: skip

RESULT = {"model": "demo@1", "validation_bits_per_byte": 2.0, "parameters": 7}


@pytest.fixture
def quiet() -> Progress:
    return Progress(io.StringIO())


@pytest.fixture
def there(server: Any) -> Any:
    server.facts.publish("dataset", "tiny", tiny_dataset(server.store).id)
    return server


def work(there: Any, n_steps: int = 5, end: str = "succeeded", pause_s: float = 0.01) -> None:
    """Have every job of the server write some events and end."""

    def do(run_id: str) -> None:
        facts = there.facts
        facts.set_phase(run_id, "running")
        for step in range(n_steps):
            facts.append_events(run_id, [("metric", {"step": step})])
            time.sleep(pause_s)
        error = {"code": "data_invalid", "message": "too small", "hint": "more"}
        facts.set_phase(
            run_id, end, result=RESULT if end == "succeeded" else None,
            error=error if end == "failed" else None,
        )  # fmt: skip
        there.jobs.end(run_id)

    there.jobs.on_submit = do


def test_a_run_is_started_followed_and_its_result_returned(there: Any, quiet: Progress) -> None:
    work(there)
    with Remote(there.url, there.key) as remote:
        assert start_and_follow(remote, "train", CONFIG, quiet) == RESULT
        assert len(there.jobs.all) == 1
        assert start_and_follow(remote, "train", CONFIG, quiet) == RESULT
        assert len(there.jobs.all) == 1, "the same config is the same run"


def test_what_a_run_failed_with_is_raised(there: Any, quiet: Progress) -> None:
    work(there, end="failed")
    with Remote(there.url, there.key) as remote:
        with pytest.raises(DataError, match="too small"):
            start_and_follow(remote, "train", CONFIG, quiet)
        work(there)  # the same command goes on: what failed before is not taken for its end
        assert start_and_follow(remote, "train", CONFIG, quiet) == RESULT


def test_a_paused_run_ends_the_watching(there: Any, quiet: Progress) -> None:
    work(there, end="paused")
    with Remote(there.url, there.key) as remote, pytest.raises(StoppedError, match="paused"):
        start_and_follow(remote, "train", CONFIG, quiet)


class Counted(RemoteRuns):
    """Counts how often a stream was begun."""

    n_streams = 0

    def stream(self, run_id: str, after: int) -> Generator[Event | None, None, None]:
        self.n_streams += 1
        return super().stream(run_id, after)


def test_each_event_comes_once_however_often_the_server_goes_away(there: Any) -> None:
    run_id = "run_" + "1" * 12
    there.facts.create_run(run_id, "train", {"name": "demo"})
    there.jobs.submit("jobs.train", run_id, None, None)
    there.facts.set_phase(run_id, "running")
    n_restarts, n_written = 0, 1

    def write() -> None:
        nonlocal n_written
        while n_restarts < 3:
            there.facts.append_events(run_id, [("metric", {"step": n_written})])
            n_written += 1
            time.sleep(0.005)
        there.facts.set_phase(run_id, "succeeded", result={})
        there.jobs.end(run_id)

    def disturb() -> None:
        nonlocal n_restarts
        for _ in range(3):
            time.sleep(0.2)
            there.stop()
            there.start()
            n_restarts += 1

    threads = [threading.Thread(target=one) for one in (write, disturb)]
    with Remote(there.url, there.key, sleep=lambda s: time.sleep(s / 10)) as remote:
        runs = Counted(remote)
        for thread in threads:
            thread.start()
        found = list(happening(runs, run_id, 0, sleep=lambda s: time.sleep(s / 20)))
        for thread in threads:
            thread.join()
    assert [event.seq for event in found] == list(range(1, n_written + 2))
    assert found[-1].data["phase"] == "succeeded"
    assert runs.n_streams > 3, "it did break"


def test_a_run_that_rests_or_died_is_not_watched_for_ever(
    there: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said any more when its process has ended: paused before, or killed."""
    run_id = "run_" + "6" * 12
    there.facts.create_run(run_id, "train", {})
    there.facts.set_phase(run_id, "paused")
    with Remote(there.url, there.key) as remote:
        runs = RemoteRuns(remote)
        assert [one.seq for one in happening(runs, run_id, 0)] == [1]
        assert list(happening(runs, run_id, 1)) == []

        there.facts.set_phase(run_id, "running")
        there.jobs.submit("jobs.train", run_id, None, None)
        threading.Timer(1.0, there.jobs.end, [run_id]).start()
        streamed = RemoteRuns.stream

        def with_signs(self: RemoteRuns, *given: Any) -> Any:
            yield from iter(lambda: time.sleep(0.1), 0)  # None, and None again
            yield from streamed(self, *given)

        monkeypatch.setattr(RemoteRuns, "stream", with_signs)
        assert [one.seq for one in happening(runs, run_id, 1)] == [2]
        assert runs.one(run_id).run.phase == "failed", "it died without a word"


def test_a_server_that_stays_away_ends_the_watching_not_the_run(there: Any) -> None:
    run_id = "run_" + "2" * 12
    there.facts.create_run(run_id, "train", {})
    there.stop()
    now = iter(range(0, 10_000, 100))
    with Remote(there.url, there.key, sleep=lambda _s: None) as remote:
        watching = happening(
            RemoteRuns(remote), run_id, 0, sleep=lambda _s: None, clock=lambda: float(next(now))
        )
        with pytest.raises(UnreachableError) as caught:
            next(watching)
    assert f"mulm runs watch {run_id} --url {there.url}" in caught.value.hint


def test_an_end_before_the_newest_phase_is_an_older_try(there: Any) -> None:
    run_id = "run_" + "3" * 12
    there.facts.create_run(run_id, "train", {})
    there.facts.set_phase(run_id, "failed")
    there.facts.append_events(run_id, [("log", {"text": "x"})])
    with Remote(there.url, there.key) as remote:
        assert newest_phase(RemoteRuns(remote), run_id) == 1


def test_streams_that_are_cut_or_wrong() -> None:
    event = {"run_id": "r", "seq": 1, "created_at": 0, "kind": "log", "data": {}}
    lines = [
        ": still at work",
        "",
        "id: 1",
        "event: log",
        f"data: {json.dumps(event)}",
        "",
        "data: {",
    ]
    assert [one and one.seq for one in _told(iter(lines))] == [None, 1]
    with pytest.raises(UnreachableError):
        list(_told(iter(["data: nonsense", ""])))
    error = {"error": {"code": "not_running", "message": "gone"}}
    with pytest.raises(NotRunningError):
        list(_told(iter(["event: error", f"data: {json.dumps(error)}", ""])))


# The commands -----------------------------------------------------------------------------------


def test_training_there_from_here(there: Any, at_server: Any) -> None:
    mulm = at_server
    (mulm.folder / "c.json").write_text(json.dumps(CONFIG))
    work(there)
    code, out, err = mulm("train", "c.json", "--set", "seed=3", "--json")
    assert code == 0, err
    assert json.loads(out)["model"] == "demo@1"
    assert there.url in err
    (run,) = there.facts.runs()
    assert run.config["seed"] == 3
    assert not mulm.home.root.exists(), "nothing is made here"
    assert mulm("train", "c.json", "--set", "seed=3", "--json", "-q")[2] == ""
    assert mulm("train", "c.json", "--dry-run")[0] == 2
    assert mulm("train", "c.json", "--set", "stesp=3")[0] == 18
    assert mulm("compress", "nobody", "--to", "int4")[0] == 3
    assert mulm("eval", "nobody")[0] == 3


def test_ctrl_c_detaches_and_says_how_to_come_back(
    there: Any, at_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mulm = at_server
    (mulm.folder / "c.json").write_text(json.dumps(CONFIG))
    work(there, n_steps=200)
    seen = Progress.event

    def interrupt(progress: Progress, kind: str, data: Any) -> None:
        seen(progress, kind, data)
        if data.get("step") == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "event", interrupt)
        code, _, err = mulm("train", "c.json")
    assert code == 130
    (run,) = there.facts.runs()
    assert f"mulm runs watch {run.id} --url {there.url}" in err
    assert there.jobs.all[run.id].is_living, "it goes on"
    assert mulm.json("runs", "watch", run.id)["model"] == "demo@1"
    code, out, err = mulm("runs", "logs", run.id, "-f", "--json")
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"]["phase"] == "succeeded"


def test_runs_there_are_shown_and_stopped(there: Any, at_server: Any) -> None:
    mulm, facts = at_server, there.facts
    run_id = "run_" + "4" * 12
    facts.create_run(run_id, "train", CONFIG)
    facts.append_events(
        run_id, [("started", {"pid": 1, "command": "x"}), ("checkpoint", {"step": 7})]
    )
    facts.append_events(run_id, [("progress", {"stage": "train", "done": 7, "total": 30})])
    facts.append_events(run_id, [("metric", {"step": 7, "loss": 2.0})])
    facts.set_phase(run_id, "running")
    there.jobs.submit("jobs.train", run_id, None, None)
    (row,) = mulm.json("runs", "ls")
    assert (row["run"], row["name"], row["phase"]) == (run_id, "demo", "running")
    assert row["progress"]["done"] == 7
    assert "demo" in mulm("runs", "ls")[1]
    told = mulm.json("runs", "show", "demo")
    assert told["config"]["steps"] == 30
    assert told["parents"]["dataset"]["id"].startswith("ds_")
    assert told["folder"] == there.url
    assert mulm("runs", "show", run_id)[0] == 0
    assert mulm.json("runs", "show", run_id[:8])["run"] == run_id
    rows = mulm("runs", "metrics", "demo", "--json")[1].splitlines()
    assert [json.loads(line)["loss"] for line in rows] == [2.0]
    assert mulm.json("runs", "output", "demo", "--lines", "2")["output"].count("said this") == 2
    assert len(mulm("runs", "logs", "demo")[1].splitlines()) == 3
    assert mulm("runs", "show", "nobody")[0] == 3
    stopped = mulm.json("runs", "cancel", "demo")
    assert (stopped["phase"], stopped["checkpoint"]) == ("cancelled", 7)
    assert mulm("runs", "cancel", "demo")[0] == 0


def test_a_run_there_is_paused_and_resumed(there: Any, at_server: Any) -> None:
    mulm, facts = at_server, there.facts
    run_id = "run_" + "5" * 12
    facts.create_run(run_id, "train", CONFIG)
    facts.set_phase(run_id, "running")
    there.jobs.submit("jobs.train", run_id, None, None)
    facts.append_events(run_id, [("started", {"job": run_id})])

    def obey() -> None:
        while facts.run(run_id).phase != "pausing":
            time.sleep(0.01)
        facts.set_phase(run_id, "paused")
        there.jobs.end(run_id)

    thread = threading.Thread(target=obey)
    thread.start()
    assert mulm.json("runs", "pause", "demo")["phase"] == "paused"
    thread.join()
    work(there)
    assert mulm.json("runs", "resume", run_id)["model"] == "demo@1"
    assert mulm("runs", "resume", run_id)[0] == 9, "it has succeeded"
    assert mulm("runs", "resume", run_id, "--set", "workers=1")[0] == 9


def test_a_run_there_goes_on_with_changes_that_have_no_part_in_the_result(
    there: Any, at_server: Any
) -> None:
    mulm, facts = at_server, there.facts
    run_id = "run_" + "6" * 12
    facts.create_run(run_id, "train", CONFIG)
    facts.set_phase(run_id, "cancelled")
    assert mulm("runs", "resume", run_id, "--detach")[0] == 9
    order = ("runs", "resume", run_id, "--detach", "--cancelled", "--set")
    code, _, err = mulm(*order, "steps=7")
    assert (code, "began with" in err) == (9, True)
    assert "did you mean 'workers'?" in mulm(*order, "worker=1")[2]
    assert there.jobs.all == {}
    assert mulm.json(*order, "log_every=3") == {"run": run_id}
    config = json.loads((there.home.run(run_id) / "config.json").read_bytes())
    assert (config["log_every"], config["steps"]) == (3, CONFIG["steps"])
    assert mulm(*order, "log_every=4")[0] == 9, "it goes on already"


def test_watching_ends_as_the_run_does(there: Any, at_server: Any) -> None:
    mulm = at_server
    (mulm.folder / "c.json").write_text(json.dumps(CONFIG))
    work(there, end="failed")
    assert mulm("train", "c.json")[0] == 4
    code, _, err = mulm("runs", "watch", "demo")
    assert code == 4
    assert "too small" in err
    assert mulm("runs", "watch", "nobody")[0] == 3


def test_machines_there_are_listed(there: Any, at_server: Any) -> None:
    assert [node["address"] for node in at_server.json("cluster", "nodes")] == [
        "10.0.0.5",
        "10.0.0.6",
    ]
    head, gone = at_server("cluster", "nodes")[1].splitlines()
    assert head.split() == ["10.0.0.5", "head", "2", "CPUs", "1", "GPUs", "16.0", "GB"]
    assert gone.split() == ["10.0.0.6", "gone", "4", "CPUs", "8.0", "GB"]


def test_versions_there(there: Any, at_server: Any) -> None:
    mulm = at_server
    assert [row["ref"] for row in mulm.json("data", "ls")] == ["tiny@1"]
    assert mulm.json("data", "show", "tiny")["dataset"] == "tiny@1"
    assert "tiny@1" in mulm("data", "show", "tiny@1")[1]
    assert mulm.json("model", "ls") == mulm.json("tokenizer", "ls") == []
    assert mulm("model", "show", "nobody")[0] == 3
    assert mulm("model", "alias", "nobody", "live")[0] == 3


def test_options_come_before_the_environment_and_keys_from_files(
    there: Any, mulm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULM_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MULM_API_KEY", "wrong")
    (mulm.folder / "key").write_text(f"{there.key}\n")
    code, out, err = mulm("runs", "ls", "--url", there.url, "--key", "@key", "--json")
    assert (code, out) == (0, "[]\n"), err
    code, _, err = mulm("runs", "ls", "--url", there.url)
    assert code == 14
    assert "--key" in err
    monkeypatch.delenv("MULM_API_KEY")
    assert mulm("runs", "ls", "--url", there.url)[0] == 14
    assert mulm("runs", "ls", "--url", "nonsense", "--key", "x")[0] == 2
    assert mulm("runs", "ls", "--url", there.url, "--key", "@nowhere")[0] == 2
    monkeypatch.setenv("MULM_API_KEY", "@nowhere")
    code, _, err = mulm("runs", "ls", "--url", there.url)
    assert code == 2
    assert "[Errno" not in err
    assert "MULM_API_KEY=@FILE" in err


@pytest.mark.parametrize("line", ["ps", "runs ls"])
def test_a_key_for_answers_alone_is_refused_in_the_servers_words(
    line: str, there: Any, at_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "mulm_sk_" + "i" * 43
    there.facts.add_key("key_2", digest_of(key, b"s" * 32), "asks", "inference")
    reply = httpx.get(f"{there.url}/api/v1/runs", headers={"Authorization": f"Bearer {key}"})
    assert reply.status_code == 403
    monkeypatch.setenv("MULM_API_KEY", key)
    code, _, err = at_server(*line.split())
    assert code == 14
    assert reply.json()["detail"] in err
    assert (reply.json().get("hint") or "") in err


def test_verbs_of_this_machine_say_so_where_a_server_is_named(at_server: Any) -> None:
    assert "this machine" in at_server("data", "verify")[2]
    assert "this machine" not in at_server("data", "verify", "-q")[2]
    for argv in (["data", "ls"], ["completion", "bash"], ["data", "verify", "--help"]):
        assert "this machine" not in at_server(*argv)[2]


@pytest.mark.parametrize(
    "line", ["backup x.tar", "gc", "restore x.tar", "cluster show", "env", "down", "config explain"]
)
def test_all_verbs_of_this_machine_say_so(line: str, at_server: Any) -> None:
    for argv in (line.split(), [*line.split(), "--json"]):
        _, out, err = at_server(*argv)
        assert err.count("works on this machine") == 1
        assert "works on" not in out
    assert "works on" not in at_server(*line.split(), "-q")[2]


def test_help_names_the_variables(mulm: Any) -> None:
    out = mulm("runs", "ls", "--help")[1]
    assert "MULM_URL" in out
    assert "MULM_API_KEY" in out
