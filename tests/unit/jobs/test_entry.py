from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import entry
from jobs.entry import JobContext, execute, mulm_cause, run_id_of, run_job
from mulm.config import Frozen
from mulm.errors import ConflictError, DataError, MulmError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store


class Config(Frozen):
    mode: str = "ok"


@pytest.fixture
def ledger(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger in this process, in the place of the cluster's."""
    ledger = Ledger(home.ledger)
    monkeypatch.setattr(entry, "_connect", lambda: (home, ledger))
    monkeypatch.setattr(entry, "configure_logging", lambda: None)
    yield ledger
    ledger.close()


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text("mode: ok")
    return str(path)


def work(context: JobContext, config: Config) -> dict[str, Any]:
    context.emit("log", text=config.mode)
    if config.mode == "data":
        raise DataError("bad 'x'", hint="mend it")
    if config.mode == "bug":
        raise ZeroDivisionError("oops")
    if config.mode in {"SIGINT", "SIGTERM"}:
        os.kill(os.getpid(), getattr(signal, config.mode))
        os.kill(os.getpid(), getattr(signal, config.mode))
    return {"answer": 42}


def test_success(ledger: Ledger, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("probe", ["--config", config], Config, work) == 0
    [run] = ledger.runs("probe")
    assert run.id == run_id_of("probe", Config())
    assert (run.phase, run.result, run.config) == ("succeeded", {"answer": 42}, {"mode": "ok"})
    assert capsys.readouterr().out == f'{{"run": "{run.id}", "answer": 42}}\n'
    events = [event.data.get("phase", event.kind) for event in ledger.events(run.id)]
    assert events == ["preparing", "running", "log", "succeeded"]


def test_a_finished_run_is_not_repeated(ledger: Ledger, config: str) -> None:
    for _ in range(2):
        assert run_job("probe", ["--config", config, "--run", "run_1"], Config, work) == 0
    assert [e.kind for e in ledger.events("run_1")].count("log") == 1


def test_a_result_that_was_lost_is_made_again(ledger: Ledger, config: str) -> None:
    def publish(context: JobContext, config: Config) -> dict[str, Any]:
        context.emit("log", text="made")
        return {"model_id": "mdl_" + "0" * 24}

    for _ in range(2):
        assert run_job("probe", ["--config", config, "--run", "run_1"], Config, publish) == 0
    assert [e.kind for e in ledger.events("run_1")].count("log") == 2


@pytest.mark.parametrize(
    ("mode", "phase", "code", "exit_code"),
    [
        ("data", "failed", "data_invalid", 4),
        ("bug", "failed", "internal", 1),
        ("SIGINT", "cancelled", "stopped", 130),
        ("SIGTERM", "cancelled", "stopped", 130),
    ],
)
def test_every_end_is_noted(
    ledger: Ledger, config: str, capsys: pytest.CaptureFixture[str],
    mode: str, phase: str, code: str, exit_code: int,
) -> None:  # fmt: skip
    argv = ["--config", config, "--run", "run_1", "--set", f"mode={mode}"]
    handler = signal.getsignal(signal.SIGTERM)
    assert run_job("probe", argv, Config, work) == exit_code
    run = ledger.run("run_1")
    assert (run.phase, (run.error or {})["code"]) == (phase, code)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error [{code}]: ")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_stopped_run_goes_on(ledger: Ledger, home: Home) -> None:
    context = JobContext("run_1", home, Store(home.store), ledger)
    ledger.create_run("run_1", "probe", {"mode": "ok"})
    ledger.set_phase("run_1", "cancelled", error={"code": "stopped"})
    assert execute("probe", Config(), work, context) == {"answer": 42}
    assert ledger.run("run_1").error is None


def test_one_run_id_is_one_config(ledger: Ledger, home: Home) -> None:
    context = JobContext("run_1", home, Store(home.store), ledger)
    execute("probe", Config(), work, context)
    with pytest.raises(ConflictError):
        execute("probe", Config(mode="other"), work, context)
    with pytest.raises(ConflictError):
        execute("train", Config(), work, context)


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [([], 2), (["--config", "no.yaml"], 3), (["--config", "c.yaml", "--wrong"], 2)],
)
def test_bad_arguments(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], argv: list[str], exit_code: int
) -> None:
    assert run_job("probe", argv, Config, work) == exit_code
    assert capsys.readouterr().err.startswith("error [")
    assert ledger.runs() == []


def test_run_ids_depend_on_all_that_matters() -> None:
    ids = {
        run_id_of("train", Config()),
        run_id_of("prepare", Config()),
        run_id_of("train", Config(mode="x")),
        run_id_of("train", Config(), {"dataset_id": "ds_1"}),
    }
    assert len(ids) == 4
    assert run_id_of("train", Config()) == run_id_of("train", Config(mode="ok"))


def test_the_cause_is_found_through_wrappers() -> None:
    ours = DataError("x", hint="h")

    class WrapperError(Exception):
        pass

    outer = WrapperError()
    outer.worker_failures = {0: RuntimeError("a"), 1: WrapperError()}  # type: ignore[attr-defined]
    outer.worker_failures[1].cause = ours  # type: ignore[attr-defined]
    assert mulm_cause(outer) is ours
    assert mulm_cause(ValueError("y")) is None
    loop = MulmError("z")
    loop.__context__ = loop
    assert mulm_cause(loop) is loop
