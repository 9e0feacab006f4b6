from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import httpx2
import openai
import pytest

from mulm.accounts import Key
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.grammar import Grammars
from mulm.errors import MulmError
from mulm.messages import FinishReason, GenerateRequest, TokenChunk
from serve_app.auth import KeyRing
from serve_app.engine_thread import EngineThread
from serve_app.http_server import HttpServer
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.served import Served
from serve_app.service import Service

KEY = "mulm_sk_" + "k" * 43
SECRET = b"s" * 32
TEXT = "the quick brown fox jumps over the lazy dog, wörld. " * 20


class LocalEngine:
    """The engine in this process, behind the client's interface."""

    def __init__(self, thread: EngineThread) -> None:
        self.thread = thread

    async def generate(
        self, _model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        async with aclosing(self.thread.generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def is_ready(self) -> bool:
        return True

    async def holds(self, _model_id: str) -> bool:
        return True


class ScriptedEngine:
    """Says what it is told to, in the groups it is told to."""

    def __init__(self) -> None:
        self.groups: list[Sequence[int]] = []
        self.end: FinishReason | Exception = "length"
        self.error: Exception | None = None
        self.never_ends = False
        self.n_closed_early = 0
        self.requests: list[GenerateRequest] = []
        self.ready = True
        self.n_probes = 0
        self.held: set[str] = set()

    async def generate(
        self, _model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        self.requests.append(request)
        if self.error:
            raise self.error
        try:
            for group in self.groups:
                yield TokenChunk(request.request_id, tuple(group))
            if isinstance(self.end, Exception):
                raise self.end
            if self.never_ends:
                await asyncio.Event().wait()
            yield TokenChunk(request.request_id, (), self.end)
        except (GeneratorExit, asyncio.CancelledError):
            self.n_closed_early += 1
            raise

    async def is_ready(self) -> bool:
        self.n_probes += 1
        await asyncio.sleep(0)
        return self.ready

    async def holds(self, model_id: str) -> bool:
        return model_id in self.held


class FakeServe:
    """Serve's REST API: what is put runs at once, but for what is told to fail."""

    def __init__(self, *names: str) -> None:
        self.configs = {name: {"name": name} for name in names}
        self.failing: dict[str, str] = {}
        self.starting: set[str] = set()
        self.refuses = ""
        self.puts: list[list[str]] = []
        self.n_asked = 0

    def request(self, method: str, _path: str, body=None, timeout_s: float = 1.0):
        if method == "GET":
            self.n_asked += 1
            return {"applications": {name: self._told(name) for name in self.configs}}
        if self.refuses:
            raise MulmError(self.refuses)
        self.configs = {config["name"]: config for config in body["applications"]}
        self.puts.append(sorted(self.configs))
        return None

    def _told(self, name: str):
        status = "DEPLOY_FAILED" if name in self.failing else "RUNNING"
        deployments = {
            each["name"]: {
                "status": "UPDATING" if name in self.starting else "HEALTHY",
                "message": "",
                "deployment_config": {"user_config": each["user_config"]},
                "replicas": [{"replica_id": f"{name}-r1", "state": "RUNNING", "node_ip": "::1"}],
            }
            for each in self.configs[name].get("deployments", [])
        }
        return {
            "status": status,
            "message": self.failing.get(name, ""),
            "deployed_app_config": self.configs[name],
            "deployments": deployments,
        }


@pytest.fixture
def serve() -> FakeServe:
    """With the ingress, and an application of somebody else."""
    return FakeServe("mulm", "strangers")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 320)


@pytest.fixture
def window() -> int:
    return 200


@pytest.fixture
def served(tokenizer, window, scripted) -> Served:
    return Served("tiny", "tiny@1", "mdl_1", 1000.0, tokenizer, window, scripted)


@pytest.fixture
def thread(tokenizer, window):
    config = FakeConfig(vocab_size=320, max_seq_len=window)
    constraint = Grammars(tokenizer).compile
    engine = Engine(
        FakeModel(config), 4, max_waiting=64, tokenizer=tokenizer, make_constraint=constraint
    )
    under_test = EngineThread(engine)
    yield under_test
    under_test.stop()


@pytest.fixture
def key() -> str:
    return KEY


@pytest.fixture
def keys() -> KeyRing:
    key = Key("key_1", "first", 0.0, "all")
    return KeyRing(lambda: {digest_of(KEY, SECRET): key}, SECRET)


@pytest.fixture
def app(thread, served, keys):
    return make_app(Service.of(replace(served, engine=LocalEngine(thread))), keys)


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def scripted_app(scripted, served, keys):
    return make_app(Service.of(served), keys)


def http(app) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(
        transport=transport,
        base_url="http://test",
        headers={"authorization": f"Bearer {KEY}"},
    )


@asynccontextmanager
async def listening(app) -> AsyncGenerator[str, None]:
    """The application on a port of its own; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = HttpServer(app, "127.0.0.1", port, 1.0)
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop()


@pytest.fixture
def client():
    """Makes the official client for an application."""

    def make(app, key: str = KEY) -> openai.AsyncOpenAI:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        return openai.AsyncOpenAI(
            api_key=key,
            base_url="http://test/v1",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=transport),
        )

    return make


@pytest.fixture
def raw():
    """Makes a bare HTTP client with a key for an application."""
    return http
