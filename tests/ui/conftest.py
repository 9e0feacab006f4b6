"""The page in a real browser: headless Chromium against the application, with a real ledger.

One browser for all of them; each test has a context of its own, and must end with a clean console.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import socket
import threading
import time
from collections import ChainMap
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.job_client import Attempt
from actors.run_desk import RunDesk
from actors.run_starter import RunStarter
from mulm.config import parse_config
from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.messages import GenerateRequest, TokenChunk, TokenLogprob
from mulm.runs.curves import Curves
from mulm.store import Store
from mulm.testing import tiny_dataset, tiny_stored_model, tiny_tokenizer
from mulm.train.config import TrainConfig
from serve_app.auth import KeyRing
from serve_app.control_api.control import Control
from serve_app.control_api.event_feed import EventFeed
from serve_app.control_api.served_state import ServedState
from serve_app.deployer import Deployer
from serve_app.deployments import Deployments
from serve_app.engine_report import EngineReport
from serve_app.followed import Followed
from serve_app.http_server import HttpServer
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.served import Served, open_served
from serve_app.service import Fixed, Service, Serving
from tests.unit.serve_app.conftest import FakeServe

KEY, WEAK_KEY = "mulm_sk_" + "k" * 43, "mulm_sk_" + "w" * 43
SECRET = b"s" * 32
HOSTILE = "<img src=x onerror=alert(1)> \u202e dropped"
RUN = "run_0123456789ab"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser is slow: these tests run once, side by side with nothing."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; one for this folder, which is a package for that.

    While Playwright is there, no other test could run an event loop in this process.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium on the path ({', '.join(NAMES)}): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A sandbox needs rights that containers withhold; the pages here are our own.
        made = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield made
        made.close()


class Engine:
    """Says one text, token by token."""

    def __init__(self) -> None:
        self.text = "Hello there"
        self.pause_s = 0.0
        self.end: Any = "stop"
        self.requests: list[GenerateRequest] = []
        self.n_left = 0

    async def generate(
        self, _model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        self.requests.append(request)
        try:
            for token in tiny_tokenizer().encode(self.text):
                top = ((token, -0.25), (70, -2.0), (71, -3.0))
                known = (TokenLogprob(token, -0.25, top),) if request.sampling.logprobs else ()
                yield TokenChunk(request.request_id, (token,), logprobs=known)
                await asyncio.sleep(self.pause_s)
            if isinstance(self.end, Exception):
                raise self.end
            yield TokenChunk(request.request_id, (), self.end)
        except (GeneratorExit, asyncio.CancelledError):
            self.n_left += 1
            raise

    async def is_ready(self) -> bool:
        return True

    async def holds(self, _model_id: str) -> bool:
        return True


class Jobs:
    """The jobs of a cluster, without processes."""

    def __init__(self) -> None:
        self.living: set[str] = set()
        self.log = "it goes on"

    def attempts(self) -> dict[str, Attempt]:
        return {run_id: Attempt(run_id, 1, "RUNNING", "", 0.0, "train") for run_id in self.living}

    def submit(self, module: str, run_id: str, config_path: Path, folder: Path) -> str:
        self.living.add(run_id)
        return run_id

    def stop(self, run_id: str) -> None:
        self.stop_job(run_id)

    def stop_job(self, submission_id: str) -> None:
        self.living.discard(submission_id)

    def wait(self, _run_id: str, _timeout_s: float) -> str:
        return "STOPPED"

    def log_tail(self, _run_id: str, _n_lines: int) -> str:
        return self.log


async def _greet(_applications: list[str]) -> None:
    pass


class Site:
    """The application on a port of its own, which can be killed and started again."""

    def __init__(self, home: Home, ledger: Ledger) -> None:
        self.home, self.ledger, self.store = home, ledger, Store(home.store)
        self.engine, self.jobs = Engine(), Jobs()
        tokenizer = tiny_tokenizer()
        self.served = Served("tiny", "tiny@1", "mdl_1", 1000.0, tokenizer, 4096, self.engine)
        self.fixed: dict[str, Serving] = {"tiny": Fixed(self.served)}
        self.serve, self.reports = FakeServe("mulm"), list[EngineReport]()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(is_up)))
        self._thread.start()
        assert is_up.wait(20)

    def kill(self) -> None:
        """Break all connections; nobody answers any more."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._is_over.set)
            self._thread.join(20)
            assert not self._thread.is_alive()
            self._thread = None

    async def _serve(self, is_up: threading.Event) -> None:
        self._loop, self._is_over = asyncio.get_running_loop(), asyncio.Event()
        deployer = Deployer(self.serve)
        deployments = Deployments(
            self.ledger, deployer, self._follow, _greet, random.Random(1), period_s=0.05
        )
        state = ServedState(deployments.serving, deployer, lambda: self.reports)
        serving = ChainMap[str, Serving](deployments.serving, self.fixed)
        server = HttpServer(self._app(serving, state), "127.0.0.1", self.port, 0.0)
        deployments.start()
        await server.start()
        is_up.set()
        await self._is_over.wait()
        deployments.stop()
        await server.stop()

    def _follow(self, _application: str, around: Any) -> Followed:
        def read(args: Any, engine: Any) -> Served:
            return open_served(args, self.store, self.ledger, engine)

        return Followed(around(self.engine), read, lambda _args: ("",), poll_s=0.01)

    def _app(self, serving: Mapping[str, Serving], state: ServedState) -> Any:
        def write(method: str, *args: Any, **kwargs: Any) -> None:
            getattr(self.ledger, method)(*args, **kwargs)

        control = Control(
            self.ledger,
            self.store,
            RunDesk(self.home, self.ledger, self.jobs, write),
            RunStarter(self.home, self.ledger, self.store, self.jobs),
            EventFeed(self.ledger, period_s=0.02),
            state,
            estimate=dict,
            nodes=list,
            curves=Curves(self.ledger),
        )
        ring = KeyRing(self.ledger.key_secrets, SECRET)
        return make_app(Service(serving), ring, control=control)

    def run(self, run_id: str = RUN, name: str = "made", **config: Any) -> str:
        """A training run that goes on."""
        values = TrainConfig(name="made", dataset="text@1").model_dump(mode="json")
        self.ledger.create_run(run_id, "train", values | config | {"name": name})
        self.ledger.set_phase(run_id, "running")
        self.jobs.living.add(run_id)
        return run_id

    def step(self, run_id: str, *steps: int) -> None:
        """Training steps are done."""
        events: list[tuple[str, dict[str, Any]]] = []
        for step in steps:
            numbers = {"loss": 5 / step**0.4, "lr": 0.01, "grad_norm": 1.5, "tokens_per_s": 900.0}
            events.append(("metric", {"step": step} | numbers))
            if step % 5 == 0:
                events.append(("metric", {"step": step, "validation_bits_per_byte": 3 / step**0.1}))
            told = {"stage": "train", "done": step, "total": 100, "unit": "steps", "eta_s": 9.0}
            events.append(("progress", told | {"rate_per_s": 2.0}))
        self.ledger.append_events(run_id, events)

    def end(self, run_id: str) -> None:
        """It succeeds."""
        self.jobs.living.discard(run_id)
        self.ledger.set_phase(run_id, "succeeded", result={"model": "made@1"})

    def versions(self) -> None:
        """`text@1`, `tiny@1` and `tiny@2`."""
        tokenizer = tiny_tokenizer()
        dataset = tiny_dataset(
            self.store, vocab_size=320, tokenizer_fingerprint=tokenizer.fingerprint
        )
        self.ledger.publish("dataset", "text", dataset.id)
        for heads in (2, 4):
            made = tiny_stored_model(self.store, tokenizer, max_seq_len=32 * heads)
            self.ledger.publish("model", "tiny", made.id)


@pytest.fixture
def site(home: Home) -> Iterator[Site]:
    with Ledger(home.ledger) as ledger:
        ledger.add_key("key_000000000001", digest_of(KEY, SECRET), "first")
        ledger.add_key("key_000000000002", digest_of(WEAK_KEY, SECRET), "friend", "inference")
        made = Site(home, ledger)
        made.start()
        yield made
        made.kill()


@pytest.fixture
def made(site: Site, tmp_path: Path) -> Site:
    """`made@1`: texts, a conversation, something too short and some duplicates."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshr", k=rng.randint(2, 7))) for _ in range(200)]
    texts: list[dict[str, Any]] = [{"text": " ".join(rng.choices(words, k=60))} for _ in range(60)]
    said = [
        {"role": "user", "content": "Who made this dataset, and what for? " * 3},
        {"role": "assistant", "content": "Words, and nothing else. " * 5},
    ]
    rows = [*texts, *texts[:7], {"text": HOSTILE}, {"messages": said}]
    folder = tmp_path / "texts"
    folder.mkdir()
    for row in rows:
        name = "chat" if "messages" in row else "text"
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    recipe = {"name": "made", "sources": [{"path": str(folder)}], "tokenizer": {"vocab_size": 400}}
    built = build(parse_config(Recipe, recipe), site.store)
    site.ledger.publish("dataset", "made", built.dataset.id)
    site.ledger.publish("tokenizer", "made", built.tokenizer.id)
    return site


Open = Callable[..., Any]


@pytest.fixture
def tab(browser: Any) -> Iterator[Open]:
    """Makes a tab; whatever its console says that was not announced in `expected` is a failure."""
    contexts: list[tuple[Any, list[str], tuple[str, ...]]] = []

    def make(*, expected: tuple[str, ...] = (), **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(10_000)
        said: list[str] = []
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: _note(said, message))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        contexts.append((context, said, expected))
        return page

    yield make
    for context, said, expected in contexts:
        context.close()
        assert [text for text in said if not any(each in text for each in expected)] == []


def _note(said: list[str], message: Any) -> None:
    if message.type in ("error", "warning"):
        said.append(message.text)


@pytest.fixture
def enter(tab: Open, site: Site) -> Open:
    """Makes a tab that is signed in, at a place such as `#/runs`."""

    def make(place: str = "#/runs", **options: Any) -> Any:
        page = tab(**options)
        session = json.dumps({"key": KEY, "scope": "all"})
        page.add_init_script(f"sessionStorage.setItem('mulm', {json.dumps(session)})")
        page.goto(site.url + place)
        page.get_by_role("heading", level=1).wait_for()
        return page

    return make


def until(check: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until something holds."""
    deadline_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.05)


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until
