"""The engine host: one replica that owns the model's weights.

Made a deployment in `serve_app.app`; called by the ingress over a Serve handle. It takes its
model from the store, and another one in place: for a while both answer, each to its own id, so
that the ingress can follow. Invariant: a request never meets another model than the one its token
ids were made for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from mulm.config import parse_config
from mulm.engine.engine import Engine
from mulm.errors import NotRunningError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import ModelChangingError
from serve_app.engine_thread import EngineThread
from serve_app.settings import AppArgs

_log = logging.getLogger(__name__)

KEEP_PREVIOUS_S = 30.0
"""How long a replaced model takes new requests: until each ingress has noticed, by far."""

OpenModel = Callable[[AppArgs], tuple[str, Any]]
"""Gives the manifest id and the model, ready to compute."""


class EngineHost:
    """Generates for one model; `reconfigure` gives it the first and every later one."""

    def __init__(
        self,
        open_model: OpenModel | None = None,
        keep_previous_s: float = KEEP_PREVIOUS_S,
        **engine_options: Any,
    ) -> None:
        self._open_model = open_model or open_from_store
        self._keep_previous_s = keep_previous_s
        self._engine_options = engine_options
        self._args: AppArgs | None = None
        self._model_id = ""
        self._threads: dict[str, EngineThread] = {}
        self._retirements: dict[str, asyncio.TimerHandle] = {}
        self._loading = asyncio.Lock()

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Serve's hook for `user_config`: load what it names, then switch over.

        Serve calls it with an unchanged config too, when it numbers replicas anew.
        """
        args = parse_config(AppArgs, config)
        async with self._loading:
            if self._args is not None and _makes_same_engine(args, self._args):
                return
            model_id, engine = await asyncio.to_thread(self._open_engine, args)
            previous, self._model_id, self._args = self._model_id, model_id, args
            if model_id not in self._threads:
                self._threads[model_id] = EngineThread(engine)
        if model_id in self._retirements:
            self._retirements.pop(model_id).cancel()
        if previous not in ("", model_id):
            later = asyncio.get_running_loop().call_later
            self._retirements[previous] = later(self._keep_previous_s, self._retire, previous)
        _log.info("model loaded model=%s slots=%d", model_id, args.n_slots)

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """The tokens of a request; closing the iterator frees its slot.

        Raises:
            ModelChangingError: this replica holds another model, as happens during a change.
            MulmError: see `EngineThread.generate`.
        """
        if not self._threads:
            raise NotRunningError("no model is loaded yet", hint="try again in a moment")
        if model_id not in self._threads:
            raise ModelChangingError("the model is being changed", hint="try again in a moment")
        async with aclosing(self._threads[model_id].generate(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def load(self) -> dict[str, Any]:
        """What this replica does right now."""
        n_unfinished = sum(thread.n_unfinished for thread in self._threads.values())
        return {"model_id": self._model_id, "n_unfinished": n_unfinished}

    def check_health(self) -> None:
        """Serve's hook: raising has the replica replaced."""
        for thread in self._threads.values():
            thread.check_health()

    def __del__(self) -> None:
        for thread in self._threads.values():
            thread.stop()

    def _retire(self, model_id: str) -> None:
        del self._retirements[model_id]
        self._threads.pop(model_id).retire()

    def _open_engine(self, args: AppArgs) -> tuple[str, Engine]:
        model_id, model = self._open_model(args)
        # Serve's queue holds back what exceeds twice the slots; the line here is never longer.
        engine = Engine(
            model,
            args.n_slots,
            args.max_seq_len,
            max_waiting=2 * args.n_slots,
            **self._engine_options,
        )
        return model_id, engine


def _makes_same_engine(one: AppArgs, other: AppArgs) -> bool:
    return (one.model, one.fixed()) == (other.model, other.fixed())


def open_from_store(args: AppArgs) -> tuple[str, Any]:
    """Load the model that `args` names onto its device."""
    import torch

    from actors.ledger_host import connect_facts
    from actors.store_host import cluster_store
    from mulm.home import Home
    from mulm.model.stored import load_ready_model

    torch.set_num_threads(args.n_threads)
    store = cluster_store(Home.from_env())
    manifest = store.load(connect_facts().resolve("model", args.ref).manifest_id)
    device = torch.device(_device(args.device, torch.cuda.is_available()))
    model = load_ready_model(
        store, manifest, device, getattr(torch, _dtype(args.dtype, device.type))
    )
    return manifest.id, model


def _device(asked: str, has_cuda: bool) -> str:
    return ("cuda" if has_cuda else "cpu") if asked == "auto" else asked


def _dtype(asked: str, device: str) -> str:
    return ("bfloat16" if device == "cuda" else "float32") if asked == "auto" else asked
