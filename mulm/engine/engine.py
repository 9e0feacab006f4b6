"""The engine: continuous batching over one model, synchronous, in one thread.

Called by the engine host's thread; `generate` is for use in this process. One step reads
*schedule, run, sample, finish*. Invariants: a request that was accepted ends in exactly one chunk
with a finish reason, unless it is cancelled; whatever ends it frees its slot at once; a request
with a seed gets the same tokens whatever runs beside it, as far as the model's kernels allow.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mulm.engine.request import Sequence
from mulm.engine.runner import LanguageModel, Runner
from mulm.engine.sampler import sample
from mulm.engine.scheduler import Scheduler
from mulm.errors import ConfigError, ConflictError, ContextLengthError
from mulm.messages import GenerateRequest, TokenChunk

MakeCache = Callable[[Any, int, int, torch.dtype, torch.device], Any]


class Engine:
    """Generates tokens for many requests at once.

    Args:
        model: Anything with `config`, `prefill` and `decode` as in `LanguageModel`.
        n_slots: Sequences that run at the same time.
        max_seq_len: The window; the model's own by default, never more.
        max_waiting: Requests that may wait for a slot.
        prefill_tokens: Prompt tokens read in one step at most.
        clock: Seconds, for deadlines.
        seed: Where the seeds of requests without one come from; by default the system.
        make_cache: Builds the cache; `KVCache` by default.
    """

    def __init__(
        self,
        model: LanguageModel,
        n_slots: int = 8,
        max_seq_len: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_waiting: int = 64,
        prefill_tokens: int = 256,
        seed: int | None = None,
        make_cache: MakeCache | None = None,
    ) -> None:
        self.vocab_size = int(model.config.vocab_size)
        self.max_seq_len = min(max_seq_len or model.config.max_seq_len, model.config.max_seq_len)
        self._clock = clock
        self._seeds = torch.Generator()
        self._seeds.manual_seed(seed) if seed is not None else self._seeds.seed()
        self._scheduler = Scheduler(n_slots, max_waiting, prefill_tokens)
        device, dtype = _placement(model)
        cache = (make_cache or _kv_cache)(model.config, n_slots, self.max_seq_len, dtype, device)
        self._runner = Runner(model, cache, device)
        self._sequences: dict[str, Sequence] = {}

    @property
    def n_running(self) -> int:
        """Sequences that hold a slot."""
        return self._scheduler.n_running

    @property
    def n_unfinished(self) -> int:
        """Sequences that run or wait."""
        return len(self._sequences)

    def add(self, request: GenerateRequest) -> None:
        """Take a request; its tokens come out of the following steps.

        Raises:
            ContextLengthError: prompt and `max_tokens` exceed the window.
            ConfigError: the prompt is empty or holds an id outside the vocabulary.
            ConflictError: a request of that id is being generated.
            OverloadedError: the waiting line is full.
        """
        self._check(request)
        sequence = Sequence(request, self._clock(), self._generator(request.sampling.seed))
        self._scheduler.enqueue(sequence)
        self._sequences[request.request_id] = sequence

    def cancel(self, request_id: str) -> bool:
        """Stop a request and free its slot; False when it has ended already."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._scheduler.release(sequence)
        return sequence is not None

    def step(self) -> list[TokenChunk]:
        """Advance every running sequence by at most one token."""
        late = self._expire()
        plan = self._scheduler.plan()
        ready = self._runner.run(plan)
        chunks = self._sample(ready)
        self._finish()
        return late + chunks

    def generate(self, requests: Iterable[GenerateRequest]) -> dict[str, TokenChunk]:
        """Run requests to their end; the whole answer of each, by request id."""
        pending = deque(requests)
        tokens: dict[str, tuple[int, ...]] = {}
        answers: dict[str, TokenChunk] = {}
        while pending or self._sequences:
            while pending and self._scheduler.can_enqueue():
                self.add(pending.popleft())
            for chunk in self.step():
                key = chunk.request_id
                tokens[key] = tokens.get(key, ()) + chunk.token_ids
                if chunk.finish_reason:
                    answers[key] = TokenChunk(key, tokens[key], chunk.finish_reason)
        return answers

    def check_integrity(self) -> None:
        """Assert the invariants: no slot leaked, nobody lost."""
        self._scheduler.check_integrity()
        assert {s.id for s in self._scheduler} == set(self._sequences), "a sequence was lost"

    def _check(self, request: GenerateRequest) -> None:
        n_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
        if n_prompt + max_tokens > self.max_seq_len:
            raise ContextLengthError(
                f"the prompt has {n_prompt} tokens and {max_tokens} more were asked for,"
                f" but the model's window is {self.max_seq_len} tokens",
                hint="shorten the prompt or ask for fewer tokens",
            )
        if not n_prompt or max_tokens < 1:
            raise ConfigError("a request needs at least one prompt token and one new token")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.vocab_size:
            raise ConfigError(
                "the prompt holds a token id outside the vocabulary",
                hint=f"ids go from 0 to {self.vocab_size - 1}",
                param="prompt",
            )
        if request.request_id in self._sequences:
            raise ConflictError(f"the request {request.request_id!r} is running already")

    def _generator(self, seed: int | None) -> torch.Generator:
        if seed is None:
            seed = int(torch.randint(2**62, (1,), generator=self._seeds))
        return torch.Generator().manual_seed(seed)

    def _expire(self) -> list[TokenChunk]:
        now_s = self._clock()
        late = [s for s in self._sequences.values() if s.is_late(now_s)]
        for sequence in late:
            sequence.finish_reason = "deadline"
            self._remove(sequence)
        return [TokenChunk(s.id, (), s.finish_reason) for s in late]

    def _sample(self, ready: list[tuple[Sequence, Tensor]]) -> list[TokenChunk]:
        if not ready:
            return []
        sequences = [sequence for sequence, _ in ready]
        token_ids = sample(
            torch.stack([logits_V for _, logits_V in ready]),
            [s.sampling for s in sequences],
            [s.generator for s in sequences],
        )
        new = [s.append(token_id) for s, token_id in zip(sequences, token_ids, strict=True)]
        return [
            TokenChunk(s.id, ids, s.finish_reason) for s, ids in zip(sequences, new, strict=True)
        ]

    def _finish(self) -> None:
        for sequence in [s for s in self._sequences.values() if s.finish_reason]:
            self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        del self._sequences[sequence.id]
        self._scheduler.release(sequence)


def _kv_cache(
    config: Any, n_slots: int, max_seq_len: int, dtype: torch.dtype, device: torch.device
) -> Any:
    from mulm.model.kv_cache import KVCache  # fake models bring their own cache

    return KVCache(config, n_slots, max_seq_len, dtype, device)


def _placement(model: Any) -> tuple[torch.device, torch.dtype]:
    """Where a model computes and in what type, read from its first parameter."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if parameters else None
    if first is None:
        return torch.device("cpu"), torch.float32
    return first.device, first.dtype
