"""What the routes work with: the served model's light half, and the engine's client.

Made by the ingress, which swaps `served` when another model is deployed; routes get it by
`ServiceDependency`. Invariant: one request uses one `Served` from its first to its last byte.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

from fastapi import Depends, Request

from mulm.accounts import Key
from mulm.data.tokenizer import Tokenizer
from mulm.errors import NotFoundError, NotRunningError
from mulm.facts import Facts
from mulm.store import Store
from serve_app.auth import ForbiddenError
from serve_app.background import Background
from serve_app.chosen_adapter import ChosenAdapter, choose_adapters
from serve_app.engine_client import EngineClient
from serve_app.openai_api.response_store import ResponseStore
from serve_app.probe import Probe
from serve_app.settings import AppArgs

_SWITCH_POLL_S = 0.2
_MAX_SWITCH_POLL_S = 5.0
_SHOWN_CHARS = 64


class ModelNotFoundError(NotFoundError):
    """A client asked for a model that is not served."""

    code = "model_not_found"


@dataclass(frozen=True, slots=True)
class Served:
    """A model as far as HTTP needs to know it."""

    name: str
    ref: str
    model_id: str
    created_s: float
    tokenizer: Tokenizer
    max_seq_len: int
    request_timeout_s: float = 600.0
    asked_ref: str = ""
    """What was to be served, perhaps by an alias."""
    adapters: tuple[ChosenAdapter, ...] = ()
    """What can stand beside the model."""
    adapter_id: str | None = None
    """Which of them does, where it is one that is asked."""
    base: str | None = None
    """The model's own name then."""

    @property
    def fingerprint(self) -> str:
        """Tells one set of weights from all others."""
        return self.model_id if self.adapter_id is None else f"{self.model_id}+{self.adapter_id}"

    @property
    def adapter_names(self) -> frozenset[str]:
        """What clients call its adapters."""
        return frozenset(each.name for each in self.adapters)

    @property
    def usable(self) -> "tuple[Served, ...]":
        """All that clients can ask: the model, and it with each of its adapters that fit."""
        return (self, *(self.beside(each) for each in self.adapters if not each.problem))

    def beside(self, adapter: ChosenAdapter) -> "Served":
        """The same model with an adapter. Raises ConflictError where that does not fit."""
        adapter.require_usable()
        return replace(
            self, name=adapter.name, ref=adapter.ref, asked_ref=adapter.asked_ref,
            created_s=adapter.created_s, adapter_id=adapter.id, base=self.name,
        )  # fmt: skip


@dataclass(slots=True)
class Service:
    """The state of one ingress replica."""

    engine: EngineClient
    served: Served | None = None
    responses: ResponseStore = field(default_factory=ResponseStore)
    background: Background = field(default_factory=Background)
    metrics_text: Callable[[], bytes] = bytes
    """What Prometheus is told; nothing where nobody counts."""
    keeps_an_engine: bool = True
    """Whether an engine runs all the time; else asking for one would start it."""
    is_ready: Probe = field(init=False)
    """Whether an engine answers."""

    def __post_init__(self) -> None:
        self.is_ready = Probe(self._is_ready)

    async def _is_ready(self) -> bool:
        return not self.keeps_an_engine or await self.engine.is_ready()

    def current(self) -> Served:
        """What is served now. Raises NotRunningError before the first model is there."""
        if self.served is None:
            raise NotRunningError("no model is loaded yet", hint="try again in a moment")
        return self.served

    async def take_over(self, served: Served, poll_s: float = _SWITCH_POLL_S) -> None:
        """Serve another model from the moment at which an engine holds it; until then the old.

        Where no engine runs all the time nobody is asked, which would start one: requests wait for
        an engine that has it.
        """
        is_due = self.served is not None and self.keeps_an_engine
        while is_due and not await self.engine.holds(served.model_id):
            await asyncio.sleep(poll_s)
            poll_s = min(1.2 * poll_s, _MAX_SWITCH_POLL_S)
        self.served = served

    def usable_by(self, key: Key) -> list[Served]:
        """All that the owner of a key can ask. Raises NotRunningError before the first model."""
        return [each for each in self.current().usable if key.may_ask(each.name)]

    def model(self, name: str, key: Key) -> Served:
        """What is served under that name, reference or id, for that key; an adapter's too.

        Raises:
            ModelNotFoundError: nothing is.
            ForbiddenError: the key is for others.
            ConflictError: an adapter that does not fit what is served now.
        """
        served = self._named(name, key)
        if not key.may_ask(served.name):
            raise ForbiddenError(
                f"the key {key.name!r} may not ask {served.name!r}",
                hint=f"it may ask: {', '.join(key.models)}",
                param="model",
            )
        return served

    def _named(self, name: str, key: Key) -> Served:
        served = self.current()
        others = (served.ref, served.asked_ref, served.model_id)
        if name == served.name or (name in others and name not in served.adapter_names):
            return served
        # Names come first: one adapter's reference can be another's name.
        for each in sorted(served.adapters, key=lambda adapter: adapter.name != name):
            if name in (each.name, each.ref, each.asked_ref, each.id):
                return served.beside(each)
        shown = name[:_SHOWN_CHARS]
        hint = f"served: {', '.join(each.name for each in self.usable_by(key))}"
        raise ModelNotFoundError(f"no model {shown!r} is served", hint=hint, param="model")


def open_served(args: AppArgs, store: Store, facts: Facts) -> Served:
    """Read what HTTP needs of a model; needs no torch.

    Raises:
        NotFoundError: no such model or adapter.
        ConflictError: an adapter does not fit.
        TokenizerMismatchError: its tokenizer is not the one it was trained with.
    """
    version = facts.resolve("model", args.ref)
    manifest = store.load(version.manifest_id)
    tokenizer = Tokenizer.from_bytes(store.read(manifest.blob("tokenizer.json")))
    tokenizer.require(manifest.tokenizer_fingerprint, f"the model {version.ref}")
    window = int(json.loads(store.read(manifest.blob("config.json")))["max_seq_len"])
    return Served(
        name=args.name,
        ref=version.ref,
        model_id=manifest.id,
        created_s=version.created_s,
        tokenizer=tokenizer,
        max_seq_len=min(window, args.max_seq_len or window),
        request_timeout_s=args.request_timeout_s,
        asked_ref=str(args.ref),
        adapters=choose_adapters(args, manifest, store, facts),
    )


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDependency = Annotated[Service, Depends(_service)]
