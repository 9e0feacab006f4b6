"""The HTTP application and an engine host in one process, without Ray: for `serve_http`.

    python -m benchmarks.serving_app FOLDER --slots 32     exported weights of `serve_shapes`
    python -m benchmarks.serving_app --idle                streams that say one token, then nothing

Prints {"port": ...} when it answers, and ends with its input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
import uvicorn

from benchmarks.serve_engine import make_model
from benchmarks.serve_shapes import open_exported
from mulm.accounts import Key
from mulm.data.tokenizer import Tokenizer
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.messages import GenerateRequest, TokenChunk
from mulm.model.batch import Batch
from mulm.testing import tiny_tokenizer
from serve_app.auth import KeyRing
from serve_app.engine_host import EngineHost
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.opened_model import OpenedModel
from serve_app.served import Served
from serve_app.service import Service
from serve_app.settings import AppArgs

KEY = "mulm_sk_" + "b" * 43
NAME = "measured"


class LocalClient:
    """An `EngineClient` of a host in this process."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`."""
        async with aclosing(self._host.generate(model_id, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def is_ready(self) -> bool:
        """As `EngineClient.is_ready`."""
        return True

    async def holds(self, model_id: str) -> bool:
        """As `EngineClient.holds`."""
        return bool((await self._host.load())["model_id"] == model_id)


class Server:
    """An application that answers on a free port of this machine, in a thread of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._uvicorn: uvicorn.Server | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._is_up.wait(60.0):
            raise RuntimeError("the server did not start")

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._uvicorn is not None
        port: int = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        return port

    def call(self, work: Any, timeout_s: float = 60.0) -> Any:
        """Run a coroutine where the application runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def stop(self) -> None:
        """End it."""
        assert self._uvicorn is not None
        self._uvicorn.should_exit = self._uvicorn.force_exit = True
        self._thread.join(10.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        app = await self._make()
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        self._uvicorn = uvicorn.Server(config)
        serving = asyncio.create_task(self._uvicorn.serve())
        while not self._uvicorn.started:
            await asyncio.sleep(0.01)
        self._is_up.set()
        await serving


def served(
    host: EngineHost, tokenizer: Tokenizer, model_id: str, max_seq_len: int, ref: str = "a@1"
) -> Served:
    """What HTTP needs to know of a model."""
    return Served(NAME, ref, model_id, time.time(), tokenizer, max_seq_len, LocalClient(host))


def make_service_app(light: Served) -> tuple[Service, Any]:
    """The application in front of a model."""
    service = Service.of(light)
    owner = Key("key_1", "measured", time.time(), "all")
    return service, make_app(service, KeyRing(lambda: {digest_of(KEY, b""): owner}, b""))


class SleepyModel(FakeModel):
    """Reads prompts, then leaves every stream waiting for its second token."""

    def extend(self, batch: Batch, cache: Any) -> torch.Tensor:
        """As `LanguageModel.extend`; all alone it sleeps."""
        if len(batch.ids_T) == len(batch.begins_S1) - 1:
            time.sleep(3600.0)
        return super().extend(batch, cache)


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--idle", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model: Any
    if options.idle:
        model = SleepyModel(FakeConfig(320, 4096))
        tokenizer = tiny_tokenizer()
    else:
        model = make_model(options.folder)
        store, manifest = open_exported(options.folder)
        tokenizer = Tokenizer.from_bytes(store.read(manifest.blob("tokenizer.json")))

    async def make() -> Any:
        host = EngineHost(lambda _args: OpenedModel("m", model, tokenizer=tokenizer))
        args = AppArgs(model="a@1", n_slots=options.slots, n_threads=options.threads)
        await host.reconfigure(args.model_dump(mode="json"))
        return make_service_app(served(host, tokenizer, "m", model.config.max_seq_len))[1]

    print(json.dumps({"port": Server(make).port, "key": KEY}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
