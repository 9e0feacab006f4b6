from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import entry
from jobs.entry import JobContext, execute, run_job
from jobs.run_end import mulm_cause
from mulm.config import Frozen
from mulm.errors import ConflictError, DataError, MulmError, NotRunningError, StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.runs.identity import run_id_of
from mulm.store import Store


class Config(Frozen):
    NOT_IDENTITY = frozenset({"workers"})

    mode: str = "ok"
    workers: int = 1


@pytest.fixture
def ledger(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger in this process, in the place of the cluster's."""
    ledger = Ledger(home.ledger)
    monkeypatch.setattr(entry, "_connect", lambda: (home, ledger, Store(home.store)))
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
    assert (run.phase, run.result, run.config) == (
        "succeeded",
        {"answer": 42},
        {"mode": "ok", "workers": 1},
    )
    assert capsys.readouterr().out == f'{{"run": "{run.id}", "answer": 42}}\n'
    events = [event.data.get("phase", event.kind) for event in ledger.events(run.id)]
    assert events == ["running", "started", "log", "succeeded"]


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
        ("SIGINT", "paused", "stopped", 130),
        ("SIGTERM", "paused", "stopped", 130),
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
    assert (run.phase, (run.error or {}).get("code")) == (
        phase,
        code if phase == "failed" else None,
    )
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error [{code}]: ")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_stopped_run_goes_on(ledger: Ledger, home: Home) -> None:
    context = JobContext("run_1", home, Store(home.store), ledger)
    ledger.create_run("run_1", "probe", {"mode": "ok", "workers": 1})
    ledger.set_phase("run_1", "cancelled", error={"code": "stopped"})
    assert execute("probe", Config(), work, context) == {"answer": 42}
    assert ledger.run("run_1").error is None


def test_one_run_is_one_process(ledger: Ledger, home: Home) -> None:
    context = JobContext("run_1", home, Store(home.store), ledger)

    def again(context: JobContext, config: Config) -> dict[str, Any]:
        with pytest.raises(ConflictError, match="works on run_1 already"):
            execute("probe", config, work, context)
        return {}

    assert execute("probe", Config(), again, context) == {}
    assert [e.kind for e in ledger.events("run_1")] == ["phase", "started", "phase"]
    assert ledger.run("run_1").phase == "succeeded"


def test_a_run_goes_on_with_another_number_of_workers(ledger: Ledger, home: Home) -> None:
    def stop(context: JobContext, config: Config) -> dict[str, Any]:
        raise StoppedError("enough")

    first, second = Config(workers=2), Config(workers=3)
    assert run_id_of("probe", first) == run_id_of("probe", second)
    context = JobContext(run_id_of("probe", first), home, Store(home.store), ledger)
    with pytest.raises(StoppedError):
        execute("probe", first, stop, context)
    assert execute("probe", second, work, context) == {"answer": 42}
    assert ledger.run(context.run_id).config == {"mode": "ok", "workers": 3}
    assert execute("probe", first, stop, context) == {"answer": 42}


@pytest.mark.parametrize("after", [False, True])
def test_a_signal_while_success_is_noted(
    ledger: Ledger, config: str, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    set_phase = ledger.set_phase

    def interrupted(run_id: str, phase: Any, **rest: Any) -> None:
        if phase == "succeeded" and not after:
            os.kill(os.getpid(), signal.SIGINT)
        set_phase(run_id, phase, **rest)
        if phase == "succeeded" and after:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ledger, "set_phase", interrupted)
    assert run_job("probe", ["--config", config, "--run", "run_1"], Config, work) == 130
    assert (ledger.run("run_1").phase, ledger.run("run_1").result) == ("succeeded", {"answer": 42})
    assert run_job("probe", ["--config", config, "--run", "run_1"], Config, work) == 0


def test_a_run_that_was_cancelled_before_it_said_what_it_is_can_be_begun(
    ledger: Ledger, home: Home
) -> None:
    ledger.create_run("run_a", "probe", {})
    ledger.set_phase("run_a", "cancelled")
    context = JobContext("run_a", home, Store(home.store), ledger)
    assert execute("probe", Config(), work, context) == {"answer": 42}
    assert ledger.run("run_a").config == Config().model_dump(mode="json")


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
    controller = WrapperError()
    controller.controller_failure = ours  # type: ignore[attr-defined]
    assert mulm_cause(controller) is ours
    loop = MulmError("z")
    loop.__context__ = loop
    assert mulm_cause(loop) is loop


def test_an_error_that_was_only_being_handled_is_no_cause() -> None:
    def handling(hide: bool) -> BaseException:
        try:
            try:
                raise NotRunningError("the application is not up")
            except NotRunningError:
                if hide:
                    raise ZeroDivisionError from None
                raise ZeroDivisionError  # noqa: B904 this is the point
        except ZeroDivisionError as error:
            return error

    assert mulm_cause(handling(hide=False)) is None
    assert mulm_cause(handling(hide=True)) is None


@pytest.mark.parametrize(
    ("asked", "error", "phase"),
    [
        ("pausing", StoppedError("step 5"), "paused"),
        ("pausing", KeyboardInterrupt(), "paused"),
        ("pausing", DataError("bad"), "failed"),
        ("cancelled", StoppedError("step 5"), "cancelled"),
        ("cancelled", KeyboardInterrupt(), "cancelled"),
        ("cancelled", DataError("bad"), "cancelled"),
        ("running", KeyboardInterrupt(), "paused"),
    ],
)
def test_an_end_is_what_was_asked_for(
    ledger: Ledger, home: Home, asked: Any, error: BaseException, phase: str
) -> None:
    def work(context: JobContext, config: Config) -> dict[str, Any]:
        ledger.set_phase("run_1", asked)
        raise error

    context = JobContext("run_1", home, Store(home.store), ledger)
    with pytest.raises(type(error)):
        execute("probe", Config(), work, context)
    assert ledger.run("run_1").phase == phase
    texts = [event.data["text"] for event in ledger.events("run_1", kinds=("log",))]
    is_told = asked == "cancelled" and isinstance(error, DataError)
    assert texts == (["while it was ending: bad"] if is_told else [])


def test_what_was_finished_before_a_request_came_counts(ledger: Ledger, home: Home) -> None:
    def work(context: JobContext, config: Config) -> dict[str, Any]:
        ledger.set_phase("run_1", "pausing")
        return {"answer": 42}

    context = JobContext("run_1", home, Store(home.store), ledger)
    execute("probe", Config(), work, context)
    assert (ledger.run("run_1").phase, ledger.run("run_1").result) == ("succeeded", {"answer": 42})


def test_a_request_before_the_work_begins_is_not_lost(ledger: Ledger, home: Home) -> None:
    ledger.create_run("run_1", "probe", {"mode": "ok", "workers": 1})
    create = ledger.create_run

    def requested(*args: Any) -> Any:
        run = create(*args)
        ledger.set_phase("run_1", "pausing")
        return run

    context = JobContext("run_1", home, Store(home.store), ledger)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "create_run", requested)
        with pytest.raises(StoppedError, match="run_1 is pausing"):
            execute("probe", Config(), work, context)
    assert ledger.run("run_1").phase == "paused"


def test_a_run_notes_who_works_on_it(ledger: Ledger, home: Home) -> None:
    execute("probe", Config(), work, JobContext("run_1", home, Store(home.store), ledger))
    started = ledger.last_event("run_1", "started")
    assert started is not None
    assert (started.data["pid"], started.data["folder"]) == (os.getpid(), os.getcwd())
    assert (started.data["job"], bool(started.data["command"])) == ("", True)
