"""What a deployment is made of, and the ingress in front of all of them.

Read by `serve_app.app`, so the same fields are the arguments of the config deploy, of the control
API and of `mulm serve`. Light floor: no torch here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mulm.config import Frozen
from mulm.errors import ConfigError
from mulm.refs import Ref, check_name, parse_ref

MAX_BODY_BYTES = 4 << 20
FLUSH_INTERVAL_S = 0.025
"""How often a running stream is sent what is ready; its first token goes at once."""

KEYS_MAX_AGE_S = 4.0
"""A key that was revoked is refused within this time and that of one question to the ledger."""

IN_PLACE = frozenset({"model", "served_name", "adapters", "request_timeout_s"})
"""Fields of `AppArgs` that a running application takes over without a restart."""


class IngressArgs(Frozen):
    """Where HTTP is answered."""

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where the ingress itself listens; without a port HTTP comes through Serve's proxy only."""
    drain_s: Annotated[float, Field(gt=0)] = 600.0
    """How long answers may still take when an ingress ends."""


class AppArgs(Frozen):
    """The served model, and how much of the machine it may take."""

    model: str | None = None
    """A reference such as `demo@1`; pin the version, so that all replicas agree. Without one the
    engine waits for the `user_config` that names it, as a config deploy gives it."""
    served_name: str | None = None
    """The name that clients use; by default the name in the reference."""
    adapters: dict[str, str] = {}
    """Adapters of the model: the name that clients use, and a version that was trained with `lora`.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    n_slots: Annotated[int, Field(ge=1, le=1024)] = 32
    """Sequences that one replica generates at the same time."""
    kv_cache_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 50)] = 1 << 30
    """Memory for keys and values at most; one whole window is held in any case."""
    kv_dtype: Literal["auto", "int8"] = "auto"
    """The type of keys and values: that of the model, or bytes with a scale for each head."""
    n_guesses: Annotated[int, Field(ge=0, le=16)] = 0
    """Tokens of a stream that are guessed in one step at most; pays for answers that copy."""
    draft: str | None = None
    """A smaller model of the same tokenizer that guesses, by reference; `n_guesses` at most."""
    cuda_graphs: bool = True
    """On a GPU steps are recorded and repeated where that gives the same numbers; it takes seconds
    at each start and some memory beside `kv_cache_bytes`, which the log names."""
    batch_invariant: bool = False
    """Answers are the same bits whatever runs beside them, on GPUs too, at the cost of speed."""
    max_seq_len: Annotated[int, Field(ge=2, le=1 << 24)] | None = None
    """A smaller window than the model's, to save memory."""
    max_queued: Annotated[int, Field(ge=1, le=1 << 20)] = 64
    """Requests that may wait for a replica; beyond it clients are told to come back."""
    gpus_per_replica: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of a GPU that a replica on one reserves; several share it below 1."""
    min_replicas: Annotated[int, Field(ge=0, le=1024)] = 1
    """Engines kept running; with 0 the first request after a quiet time waits for one to start."""
    max_replicas: Annotated[int, Field(ge=1, le=1024)] = 2
    """Engines at most, under load; fewer where the machine cannot place that many."""
    upscale_delay_s: Annotated[float, Field(ge=0, le=86_400)] = 2.0
    """How long more streams than slots must last before another engine starts."""
    downscale_delay_s: Annotated[float, Field(ge=0, le=86_400)] = 120.0
    """How long there must be too little to do before one ends."""
    n_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of a replica's steps; by default as many as are found fastest."""
    request_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """From a request's arrival to its last token, and how long an engine that ends may drain."""

    @model_validator(mode="after")
    def _is_consistent(self) -> AppArgs:
        if self.model is not None:
            parse_ref(self.model)
            if self.name in self.adapters:
                raise ValueError(f"{self.name!r} names both the model and an adapter")
        for name, ref in self.adapters.items():
            check_name(name)
            parse_ref(ref)
        if self.draft is not None:
            parse_ref(self.draft)
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must not be smaller than min_replicas")
        return self

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.served_name or self.ref.name

    @property
    def ref(self) -> Ref:
        """The model's parsed reference. Raises ConfigError when there is none."""
        if self.model is None:
            raise ConfigError("no model is named", hint="set `model`, for instance to demo@1")
        return parse_ref(self.model)

    @property
    def is_followed(self) -> bool:
        """Whether an alias, which may move, says what is served."""
        given = [self.model, *self.adapters.values()]
        return any(parse_ref(text).alias is not None for text in given if text is not None)

    def fixed(self) -> dict[str, Any]:
        """The part whose change restarts replicas."""
        return self.model_dump(mode="json", exclude=set(IN_PLACE))
