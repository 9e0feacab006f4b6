"""`mulm runs` on this machine's installation, without the application."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.cli_runs import runs
from jobs.exit_codes import EXIT_BY_CODE
from jobs.progress import Progress
from mulm.config import parse_config
from mulm.data.recipe import Recipe
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.run_lock import run_lock
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.metrics import OF_THE_MACHINE

VERBS = {
    "ls", "show", "logs", "output", "watch", "metrics", "samples",
    "pause", "resume", "cancel", "compare",
}  # fmt: skip
CONFIG = {
    "name": "demo", "dataset": "tiny", "model": TINY_SHAPE, "steps": 30, "batch_tokens": 64,
    "seq_len": 16, "log_every": 1, "validate_every": 10, "checkpoint_every": 10, "device": "cpu",
}  # fmt: skip


class Terminal:
    """A user in a folder with a config, whose commands run in this process."""

    def __init__(self, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.folder, self.capsys = home, folder, capsys

    def run(self, *argv: str) -> tuple[int, str, str]:
        try:
            main(list(argv))
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *argv: str) -> Any:
        code, out, err = self.run("runs", *argv, "--json")
        assert code == 0, err
        return json.loads(out)

    def numbers(self, name: str) -> list[dict[str, Any]]:
        code, out, err = self.run("runs", "metrics", name, "--json")
        assert code == 0, err
        rows = [json.loads(line) for line in out.splitlines()]
        return [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in rows]

    def ledger(self) -> Ledger:
        return Ledger(self.home.ledger)


@pytest.fixture
def user(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    monkeypatch.setenv("MULM_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(Store(home.store)).id)
    return Terminal(home, tmp_path, capsys)


def test_the_verbs_are_these_and_have_examples(user: Terminal) -> None:
    assert set(runs.commands) == VERBS
    for verb in VERBS:
        code, out, _ = user.run("runs", verb, "--help")
        assert code == 0
        assert f"Example:  mulm runs {verb}" in out
        assert "--json" in out


def test_looking_at_runs(user: Terminal) -> None:
    for name, seed in (("demo", 0), ("second", 1)):
        code, _, err = user.run(
            "train", "config.json", "--set", f"name={name}", "--set", f"seed={seed}"
        )
        assert code == 0, err
    second, demo = user.json("ls")
    assert (demo["name"], demo["kind"], demo["phase"]) == ("demo", "train", "succeeded")
    assert user.json("ls", "--limit", "1") == [second]
    assert user.json("ls", "--phase", "running") == user.json("ls", "--kind", "prepare") == []
    assert "second" in user.run("runs", "ls")[1]

    told = user.json("show", demo["run"][:8])
    assert told["result"]["model"] == "demo@1"
    assert told["checkpoints"][-1] == {"step": 30, "is_best": True}
    assert told["made_by"]["pid"] == os.getpid()
    assert user.json("show", "demo@1")["run"] == demo["run"]
    assert "config      seed: 1" in user.run("runs", "show", "second")[1]

    assert user.json("watch", "demo")["model"] == "demo@1"
    lines = user.run("runs", "logs", "demo")[1].splitlines()
    assert lines[0].endswith("running")
    assert lines[-1].endswith("succeeded")
    assert user.run("runs", "logs", "demo", "-f", "--limit", "1")[1].splitlines() == lines[-1:]
    events = user.run("runs", "logs", "demo", "--json")[1].splitlines()
    assert {"metric", "progress", "log"} <= {json.loads(line)["kind"] for line in events}

    rows = user.numbers("demo")
    assert [row["step"] for row in rows] == list(range(1, 31))
    table = user.run("runs", "metrics", "demo", "--every", "10", "--last", "2")[1].splitlines()
    assert [line.split()[0] for line in table] == ["step", "20", "30"]
    read = list(csv.DictReader(io.StringIO(user.run("runs", "metrics", "demo", "--csv")[1])))
    assert [float(row["loss"]) for row in read] == [row["loss"] for row in rows]

    compared = user.json("compare", "demo", "second")
    assert {run["name"] for run in compared["runs"]} == {"demo", "second"}
    assert set(compared["differences"]) == {"name", "seed"}
    assert len(compared["steps"]) == 30
    best = compared["runs"][0]
    assert best["validation"] == min(run["validation"] for run in compared["runs"])
    assert best["name"] in user.run("runs", "compare", "demo", "second")[1].splitlines()[1]


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
def test_a_run_without_numbers_says_so(user: Terminal, form: list[str]) -> None:
    with user.ledger() as ledger:
        ledger.create_run("run_a", "train", CONFIG)
    code, out, err = user.run("runs", "metrics", "run_a", *form)
    assert (code, out) == (0, "")
    assert "there are none yet" in err


def test_samples_change_no_terminal(user: Terminal) -> None:
    with user.ledger() as ledger:
        ledger.create_run("run_a", "train", {"name": "demo"})
        assert user.run("runs", "samples", "demo")[1:] == ("", "there are none\n")
        data = {"step": 5, "prompt": "Once", "text": "upon \x1b[31m"}
        ledger.append_events("run_a", [("sample", data)])
    out = user.run("runs", "samples", "demo")[1]
    assert out == "step 5  > Once\n  upon ␛[31m\n"
    out = user.run("runs", "samples", "demo", "--json")[1]
    assert json.loads(out) == data
    assert "\x1b" not in out
    assert user.run("runs", "metrics", "demo")[1:] == ("", "there are none yet\n")


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["show", "dmeo"], "not_found", "'demo'"),
        (["show", "run_"], "config_invalid", "write more"),
        (["shwo", "demo"], "unknown_name", "'show'"),
        (["metrics", "run_p"], "conflict", "a prepare run"),
        (["compare", "demo", "run_a"], "config_invalid", "name two runs"),
        (["compare", "demo", "run_p"], "conflict", "a prepare run"),
        (["compare"], "config_invalid", "RUN"),
        (["metrics", "demo", "--csv", "--json"], "config_invalid", "one of them"),
        (["metrics", "demo", "--last", "0"], "config_invalid", "--last"),
        (["ls", "--phase", "runing"], "config_invalid", "running"),
        (["ls", "--kind", "trian"], "unknown_name", "'train'"),
        (["pause", "demo"], "conflict", "has succeeded"),
        (["cancel", "demo"], "conflict", "has succeeded"),
        (["resume", "demo"], "conflict", "has succeeded"),
        (["resume", "run_c"], "conflict", "--cancelled"),
        (["resume", "run_p", "--detach"], "not_running", "mulm up"),
        (["resume", "run_p", "--set", "name=other"], "conflict", "began with 'text'"),
        (["resume", "run_p", "--set", "nmae=other"], "unknown_name", "'name'"),
    ],
)
def test_mistakes_have_a_reason_a_hint_and_a_code(
    user: Terminal, argv: list[str], code: str, told: str
) -> None:
    values = {"name": "text", "sources": [{"type": "text", "path": "texts"}]}
    recipe = Recipe.model_validate(values).model_dump(mode="json")
    with user.ledger() as ledger:
        ledger.create_run("run_a", "train", CONFIG)
        ledger.set_phase("run_a", "succeeded", result={"model": "demo@1"})
        ledger.create_run("run_c", "train", CONFIG | {"name": "gone"})
        ledger.set_phase("run_c", "cancelled")
        ledger.create_run("run_p", "prepare", recipe)
        ledger.set_phase("run_p", "paused")
    status, out, err = user.run("runs", *argv)
    assert status == EXIT_BY_CODE[code], err
    assert code in err
    assert told in err
    assert "hint" in err
    assert (out, "Traceback" in err) == ("", False)


def test_a_request_pauses_training_in_this_process_and_resume_goes_on(
    user: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Progress.event

    def request(progress: Progress, kind: str, data: Mapping[str, Any]) -> None:
        seen(progress, kind, data)
        if kind == "metric" and data.get("step") == 5 and "loss" in data:
            with user.ledger() as ledger:  # as `mulm runs pause` does from another process
                (run,) = ledger.runs("train")
                ledger.set_phase(run.id, "pausing", only_from=("running",))
            time.sleep(1.0)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "event", request)
        code, _, err = user.run("train", "config.json")
    assert code == 130, err
    (run,) = user.json("ls")
    assert (run["phase"], run["is_living"]) == ("paused", False)
    told = user.json("pause", "demo")
    assert (told["phase"], told["checkpoint"]) == ("paused", 5)

    code, out, err = user.run("runs", "resume", "demo", "--set", "log_every=1", "--json")
    assert code == 0, err
    assert "goes on from step 5" in err
    assert json.loads(out)["run"] == run["run"]
    user.run("train", "config.json", "--set", "name=whole")
    assert user.numbers("demo") == user.numbers("whole")


def test_a_paused_run_is_cancelled_and_goes_on_only_if_that_is_said(user: Terminal) -> None:
    with user.ledger() as ledger:
        config = parse_config(TrainConfig, CONFIG | {"dataset": "tiny@1"})
        ledger.create_run("run_a", "train", config.model_dump(mode="json"))
        ledger.set_phase("run_a", "paused")
    assert user.run("runs", "cancel", "demo")[:2] == (
        0, "run_a is cancelled, before its first checkpoint\n",
    )  # fmt: skip
    assert user.json("cancel", "demo") == {
        "run": "run_a", "phase": "cancelled", "checkpoint": None,
    }  # fmt: skip
    assert user.run("runs", "resume", "demo")[0] == EXIT_BY_CODE["conflict"]
    assert user.json("resume", "demo", "--cancelled")["model"] == "demo@1"


def test_a_change_is_refused_where_the_run_goes_on_without_it(user: Terminal) -> None:
    with user.ledger() as ledger:
        ledger.create_run("run_a", "train", CONFIG)
        ledger.set_phase("run_a", "running")
    with run_lock(user.home, "run_a"):
        code, out, err = user.run("runs", "resume", "demo", "--set", "workers=1")
    assert (code, out) == (EXIT_BY_CODE["conflict"], "")
    assert "run_a goes on already, without workers=1" in err


def test_numbers_that_json_has_not_are_null_in_it(user: Terminal) -> None:
    with user.ledger() as ledger:
        ledger.create_run("run_a", "train", CONFIG)
        ledger.append_events("run_a", [("metric", {"step": 1, "loss": math.nan})])
    for verb in ("logs", "metrics"):
        assert '"loss": null' in user.run("runs", verb, "demo", "--json")[1]


@pytest.mark.slow
def test_a_process_elsewhere_is_paused_killed_and_gone_on_with(user: Terminal) -> None:
    """As two terminals do; what is measured is as if nothing had happened."""
    changes = {"steps": 400, "log_every": 20, "validate_every": 200, "checkpoint_every": 40}
    (user.folder / "config.json").write_text(json.dumps(CONFIG | changes))
    command = [sys.executable, "-c", "from jobs.cli import main; main()"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}

    def begin(*argv: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, *argv], env=env, stderr=subprocess.DEVNULL)

    def wait_for_checkpoints(n: int) -> None:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            with user.ledger() as ledger:
                runs = ledger.runs("train")
                events = ledger.events(runs[0].id, kinds=("checkpoint",)) if runs else []
            if len(events) >= n:
                return
            time.sleep(0.05)
        raise AssertionError("no checkpoint came")

    with begin("train", "config.json") as first:
        wait_for_checkpoints(1)
        assert user.json("pause", "demo")["phase"] == "paused"
        assert first.wait(30) == EXIT_BY_CODE["stopped"]
    with user.ledger() as ledger:
        n_before = len(ledger.events(ledger.runs()[0].id, kinds=("checkpoint",)))
    with begin("runs", "resume", "demo") as second:
        wait_for_checkpoints(n_before + 2)
        assert [row["phase"] for row in user.json("ls")] == ["running"]
        second.send_signal(signal.SIGKILL)
        second.wait(30)
    told = user.json("show", "demo")
    assert (told["phase"], told["error"]["code"]) == ("failed", "job_failed")
    assert "without a word" in told["error"]["message"]
    assert user.json("resume", "demo")["steps"] == 400
    assert user.run("train", "config.json", "--set", "name=whole")[0] == 0
    assert user.numbers("demo") == user.numbers("whole")
