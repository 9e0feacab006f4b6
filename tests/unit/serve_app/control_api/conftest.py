from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
import torch

from actors.job_client import Attempt
from actors.nodes import described
from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.runs.curves import Curves
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer
from serve_app.auth import KeyRing
from serve_app.control_api.control import Control
from serve_app.control_api.event_feed import EventFeed
from serve_app.control_api.served_state import ServedState
from serve_app.deployer import Deployer
from serve_app.deployments import Deployments
from serve_app.engine_report import EngineReport
from serve_app.followed import Followed
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.served import open_served
from serve_app.service import Service

SECRET = b"s" * 32
KEY, WEAK_KEY = "mulm_sk_" + "k" * 43, "mulm_sk_" + "w" * 43


HEAD = {
    "NodeID": "n1", "Alive": True, "NodeManagerAddress": "10.0.0.1",
    "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 8e9, "node:__internal_head__": 1.0},
    "Labels": {"ray.io/accelerator-type": "RTX", "room": "attic"},
}  # fmt: skip
GONE = {"NodeID": "n0", "Alive": False, "NodeManagerAddress": "10.0.0.2", "Resources": {}}


class Jobs:
    """The jobs of a cluster, without processes."""

    def __init__(self) -> None:
        self.all: dict[str, Attempt] = {}
        self.submitted: list[tuple[str, str, Path]] = []

    def submit(self, module: str, run_id: str, config_path: Path, folder: Path) -> str:
        self.submitted.append((module, run_id, config_path))
        self.all[run_id] = Attempt(run_id, 1, "RUNNING", "", 1e12, module.removeprefix("jobs."))
        return run_id

    def attempts(self) -> dict[str, Attempt]:
        return dict(self.all)

    def stop(self, run_id: str) -> None:
        self.stop_job(run_id)

    def stop_job(self, submission_id: str) -> None:
        self.all[submission_id] = Attempt(submission_id, 1, "STOPPED", "")

    def wait(self, _run_id: str, _timeout_s: float) -> str:
        return "STOPPED"

    def log_tail(self, run_id: str, n_lines: int) -> str:
        return "\n".join([f"{run_id} said this"] * n_lines)


class Api:
    """The control API in this process."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def call(self, method: str, path: str, key: str = KEY, **options: Any) -> httpx2.Response:
        async def once() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
            headers = {"authorization": f"Bearer {key}"} | options.pop("headers", {})
            async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(once())

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        reply = self.call("GET", path, **options)
        assert reply.status_code == status, reply.text
        return reply.json()

    def refused(self, method: str, path: str, status: int, **options: Any) -> dict[str, Any]:
        """The problem that a call is answered with."""
        reply = self.call(method, path, **options)
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = reply.json()
        assert set(body) == {
            "type", "title", "status", "detail", "code", "hint", "param", "request_id",
        }  # fmt: skip
        assert body["status"] == status
        assert body["request_id"] == reply.headers["x-request-id"]
        return body


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as facts:
        facts.add_key("key_1", digest_of(KEY, SECRET), "first")
        facts.add_key("key_2", digest_of(WEAK_KEY, SECRET), "friend", "inference")
        yield facts


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home.store)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def versions(ledger: Ledger, store: Store) -> None:
    """`text@1`, `tiny@1` and `tiny@2`."""
    tokenizer = tiny_tokenizer()
    dataset = tiny_dataset(store, vocab_size=320, tokenizer_fingerprint=tokenizer.fingerprint)
    ledger.publish("dataset", "text", dataset.id)
    ledger.publish("model", "tiny", tiny_stored_model(store, tokenizer).id)
    ledger.publish("model", "tiny", tiny_stored_model(store, tokenizer, dtype=torch.bfloat16).id)


@pytest.fixture
def feed(ledger: Ledger) -> EventFeed:
    return EventFeed(ledger, period_s=0.01)


@pytest.fixture
def deployer(serve: Any) -> Deployer:
    return Deployer(serve, clock=iter(range(0, 10**9, 100)).__next__)


@pytest.fixture
def deployments(ledger: Ledger, store: Store, deployer: Deployer, scripted: Any) -> Deployments:
    """What the ingress follows; engines have whatever they are asked for, and say what they do."""

    class Held:
        def __contains__(self, _model_id: str) -> bool:
            return True

    scripted.held = Held()

    def follow(_application: str, around: Any) -> Followed:
        def read(args: Any, engine: Any) -> Any:
            return open_served(args, store, ledger, engine)

        return Followed(around(scripted), read, lambda _args: ("",), poll_s=0.001)

    async def greet(_applications: list[str]) -> None:
        pass

    return Deployments(ledger, deployer, follow, greet, Random(1))


@pytest.fixture
def look(deployments: Deployments) -> Any:
    """Has the ingress look at the ledger until nothing is left to do."""

    async def until_done() -> None:
        for _ in range(3):
            await deployments.look()
        for each in deployments.serving.values():
            for followed in each.followed.values():
                while not followed.problem and not followed.is_current:
                    await asyncio.sleep(0.001)

    return lambda: asyncio.run(asyncio.wait_for(until_done(), 10.0))


@pytest.fixture
def reports() -> list[EngineReport]:
    return []


@pytest.fixture
def api(
    home: Home, ledger: Ledger, store: Store, jobs: Any, feed: EventFeed, deployer: Deployer,
    deployments: Deployments, reports: list[EngineReport],
) -> Api:  # fmt: skip
    def write(method: str, *args: Any, **kwargs: Any) -> None:
        getattr(ledger, method)(*args, **kwargs)

    control = Control(
        ledger,
        store,
        RunDesk(home, ledger, jobs, write),
        RunStarter(home, ledger, store, jobs, ["https://data.example/corpora/"]),
        feed,
        ServedState(deployments.serving, deployer, lambda: reports),
        estimate=lambda values: {"object": "estimate", "config": dict(values)},
        nodes=lambda: described([HEAD, GONE]),
        curves=Curves(ledger),
    )
    ring = KeyRing(ledger.key_secrets, SECRET)
    return Api(make_app(Service(deployments.serving), ring, control=control))
