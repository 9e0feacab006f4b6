"""A terminal for the command line: one command at a time, in this process."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fastapi import FastAPI

from actors.job_client import Attempt
from actors.nodes import described
from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from jobs.cli import main
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.runs.curves import Curves
from mulm.settings import Settings
from mulm.store import Store
from serve_app.auth import KeyRing
from serve_app.control_api.control import Control
from serve_app.control_api.event_feed import EventFeed
from serve_app.control_api.served_state import ServedState
from serve_app.http_server import HttpServer
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.service import Service


class CommandLine:
    """Runs `mulm` with an installation and a folder of its own."""

    def __init__(self, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.folder, self._capsys = home, folder, capsys

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        """The exit code, stdout and stderr."""
        try:
            main(list(argv))
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *argv: str) -> Any:
        code, out, err = self(*argv, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def mulm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    home = Home(tmp_path / "home")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("MULM_HOME", str(home.root))
    for name in ("MULM_URL", "MULM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return CommandLine(home, folder, capsys)


RAY_NODES = [
    {
        "NodeID": "b" * 8, "NodeManagerAddress": "10.0.0.6", "Alive": False,
        "Resources": {"CPU": 4.0, "memory": 8e9},
    },
    {
        "NodeID": "a" * 8, "NodeManagerAddress": "10.0.0.5", "Alive": True,
        "Resources": {"node:__internal_head__": 1.0, "CPU": 2.0, "GPU": 1.0, "memory": 16e9},
    },
]  # fmt: skip
"""As Ray tells them."""

SECRET, KEY = b"s" * 32, "mulm_sk_" + "k" * 43


class ServerJobs:
    """The jobs of the server's cluster, without processes."""

    def __init__(self) -> None:
        self.all: dict[str, Attempt] = {}
        self.on_submit: Callable[[str], None] = lambda _run_id: None

    def submit(self, module: str, run_id: str, config_path: Path, folder: Path) -> str:
        self.all[run_id] = Attempt(run_id, 1, "RUNNING", "", 1e12, module.removeprefix("jobs."))
        Thread(target=self.on_submit, args=(run_id,), daemon=True).start()
        return run_id

    def end(self, run_id: str) -> None:
        self.all[run_id] = replace(self.all[run_id], status="SUCCEEDED", started_s=0.0)

    def attempts(self) -> dict[str, Attempt]:
        return dict(self.all)

    def stop(self, run_id: str) -> None:
        self.stop_job(run_id)

    def stop_job(self, submission_id: str) -> None:
        self.all[submission_id] = replace(self.all[submission_id], status="STOPPED")

    def wait(self, _run_id: str, _timeout_s: float) -> str:
        return "STOPPED"

    def log_tail(self, run_id: str, n_lines: int) -> str:
        return "\n".join([f"{run_id} said this"] * n_lines)


class ControlServer:
    """The control API of an installation elsewhere, on a port of this machine, without Ray."""

    def __init__(self, home: Home) -> None:
        self.home, self.jobs, self.key = home, ServerJobs(), KEY
        self.facts, self.store = Ledger(home.ledger), Store(home.store)
        self.facts.add_key("key_1", digest_of(KEY, SECRET), "first")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._http: HttpServer | None = None
        self.app_options: dict[str, Any] = {}

    def app(self) -> FastAPI:
        def write(method: str, *args: Any, **kwargs: Any) -> None:
            getattr(self.facts, method)(*args, **kwargs)

        jobs: Any = self.jobs
        desk = RunDesk(self.home, self.facts, jobs, write)
        starter = RunStarter(self.home, self.facts, self.store, jobs)
        feed = EventFeed(self.facts, period_s=0.01)
        deployer: Any = None  # nothing is served here
        served = ServedState({}, deployer, list)
        control = Control(
            self.facts,
            self.store,
            desk,
            starter,
            feed,
            served,
            estimate=dict,
            nodes=lambda: described(RAY_NODES),
            curves=Curves(self.facts),
        )
        ring = KeyRing(self.facts.key_secrets, SECRET)
        return make_app(Service({}), ring, control=control, **self.app_options)

    def start(self) -> None:
        async def listen() -> HttpServer:
            server = HttpServer(self.app(), "127.0.0.1", self.port, 0.0)
            await server.start()
            return server

        self._http = asyncio.run_coroutine_threadsafe(listen(), self.loop).result(20)

    def stop(self) -> None:
        """End as a server that is killed: what is open breaks."""
        if self._http is None:
            return
        http, self._http = self._http, None

        async def kill() -> None:
            for connection in list(http._server.server_state.connections):
                connection.transport.abort()
            await http.stop()

        asyncio.run_coroutine_threadsafe(kill(), self.loop).result(20)

    def restart(self, settings: Settings) -> None:
        """Answer with other settings from now on."""
        self.app_options["settings"] = settings
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()
        self.facts.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    there = ControlServer(Home(tmp_path / "elsewhere").create())
    there.start()
    yield there
    there.close()


@pytest.fixture
def at_server(mulm: CommandLine, server: ControlServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line of a user who has named the server."""
    monkeypatch.setenv("MULM_URL", server.url)
    monkeypatch.setenv("MULM_API_KEY", server.key)
    return mulm
