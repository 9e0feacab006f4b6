"""The engine: continuous batching over one model, synchronous, in one thread.

Called by the engine host's thread; `generate` is for use in this process. One step reads
*schedule, run, draw, tell*. Invariants: each choice of an accepted request ends in exactly one
chunk with a finish reason, unless the request is cancelled; whatever ends it frees its pages at
once; a request with a seed gets the same tokens whatever runs beside it, as far as the model's
kernels allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

from mulm.data.tokenizer import Tokenizer
from mulm.engine.adapters import Adapters
from mulm.engine.answers import answer_all
from mulm.engine.budget import StepBudget
from mulm.engine.check import check_request
from mulm.engine.drawing import draw
from mulm.engine.graph import GraphReport, Recorder
from mulm.engine.group import Group
from mulm.engine.pages import pages_for
from mulm.engine.prompt_rows import look_at_rows
from mulm.engine.request import Constraint, Sequence
from mulm.engine.runner import Outcome, Runner
from mulm.engine.scheduler import Scheduler, Work
from mulm.engine.speculation import Speculation, Speculator
from mulm.engine.stats import EngineStats
from mulm.engine.stops import StopStrings
from mulm.engine.unfinished import Unfinished
from mulm.errors import ConfigError, ConflictError, UnknownNameError
from mulm.messages import GenerateRequest, Grammar, TokenChunk
from mulm.model.adapter import Adapter
from mulm.model.batch import LanguageModel

MakeConstraint = Callable[[Grammar, tuple[int, ...]], Constraint]


class Engine:
    """Generates tokens for many requests at once.

    Args:
        model: Anything that fulfils `LanguageModel`.
        n_slots: Sequences that run at the same time.
        max_seq_len: The window; the model's own by default, never more.
        clock: Seconds, for deadlines.
        max_waiting: Requests that may wait for a slot.
        max_waiting_tokens: Prompt tokens that may wait.
        prefill_tokens: Prompt tokens read in one step at most.
        longest_step_s: What a step that streams wait for aims at: as many tokens of prompts are
            read beside them, a page at least. None for plans that depend on no clock.
        speculation: Who guesses the next tokens, so that a step may find several; nobody by
            default.
        n_pages: Pages of keys and values; by default a whole window for each slot.
        seed: Where the seeds of requests without one come from; by default the system.
        tokenizer: The model's; needed for stop strings.
        make_constraint: Makes what holds an answer to a grammar, as `Grammars.constraint` does,
            given the tokens that may end it.
        batch_invariant: Every step has one fixed shape, so that an answer is the same bits whatever
            runs beside it; plain PyTorch needs that, the CPU kernels do not.
        recorder: Records steps as CUDA graphs, as `mulm.engine.graph_cuda` does; none by default.

    Raises:
        ConfigError: answers cannot be the same bits here.
    """

    def __init__(
        self,
        model: LanguageModel,
        n_slots: int = 8,
        max_seq_len: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_waiting: int = 64,
        max_waiting_tokens: int = 1 << 20,
        prefill_tokens: int = 256,
        longest_step_s: float | None = 0.05,
        speculation: Speculation | None = None,
        n_pages: int | None = None,
        seed: int | None = None,
        tokenizer: Tokenizer | None = None,
        make_constraint: MakeConstraint | None = None,
        batch_invariant: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self.vocab_size = int(model.config.vocab_size)
        self.max_seq_len = min(max_seq_len or model.config.max_seq_len, model.config.max_seq_len)
        self._clock = clock
        self._seeds = torch.Generator()
        self._seeds.manual_seed(seed) if seed is not None else self._seeds.seed()
        self._tokenizer, self._make_constraint = tokenizer, make_constraint
        per_sequence = pages_for(self.max_seq_len + 1)
        self.n_pages = n_pages or n_slots * per_sequence
        self._scheduler = Scheduler(n_slots, self.n_pages, max_waiting, max_waiting_tokens)
        self._budget = StepBudget(prefill_tokens, longest_step_s)
        self._speculator: Speculator | None = None
        if speculation is not None:
            self.speculate(speculation)
        self._runner = Runner(
            model, n_slots, self.n_pages, per_sequence,
            batch_invariant=batch_invariant, recorder=recorder,
        )  # fmt: skip
        self._unfinished = Unfinished(self._scheduler.release)
        self._adapters = Adapters()
        self._prompt_tokens = self._generated_tokens = 0

    @property
    def n_running(self) -> int:
        """Sequences that hold a slot."""
        return self._scheduler.n_running

    @property
    def n_unfinished(self) -> int:
        """Requests that run or wait."""
        return len(self._unfinished)

    @property
    def graphs(self) -> GraphReport | None:
        """What became of recording its steps; None without a recorder."""
        return self._runner.graphs

    def stats(self) -> EngineStats:
        """Numbers for metrics and for whoever scales engines."""
        line, pages = self._scheduler, self._scheduler.pages
        guessed = self._speculator
        return EngineStats(
            line.n_running, line.n_waiting, line.waiting_tokens, pages.n_pages, pages.n_free,
            line.n_preemptions, line.n_looked_up, line.n_found,
            self._prompt_tokens, self._generated_tokens,
            guessed.n_proposed if guessed else 0, guessed.n_accepted if guessed else 0,
        )  # fmt: skip

    def add(self, request: GenerateRequest) -> None:
        """Take a request; its tokens come out of the following steps.

        Raises:
            ContextLengthError: prompt and `max_tokens` exceed the window, or all pages.
            ConfigError: what it asks for is impossible; `param` names it.
            ConflictError: a request of that id is being generated.
            OverloadedError: the waiting line is full.
        """
        check_request(request, self.vocab_size, self.max_seq_len, self.n_pages)
        if request.request_id in self._unfinished:
            raise ConflictError(f"the request {request.request_id!r} is running already")
        if request.adapter is not None and request.adapter not in self._adapters.numbers:
            raise ConfigError(f"no adapter {request.adapter!r} is loaded", param="model")
        self._scheduler.require_room(request)
        seed = request.sampling.seed
        if seed is None:
            seed = int(torch.randint(2**62, (1,), generator=self._seeds))
        n_sequences = max(request.n, request.best_of)
        sequences = [self._sequence(request, index, seed) for index in range(n_sequences)]
        self._scheduler.enqueue(sequences)
        self._unfinished.add(Group(request, sequences), self._clock() + request.deadline_s)
        self._prompt_tokens += len(request.prompt_ids)

    def can_add(self, request: GenerateRequest) -> bool:
        """Whether the waiting line has room for it."""
        return self._scheduler.can_enqueue(request)

    def cancel(self, request_id: str) -> bool:
        """Stop a request and free its pages; False when it has ended already."""
        return self._unfinished.cancel(request_id)

    @torch.inference_mode()
    def step(self) -> list[TokenChunk]:
        """Advance every running sequence: by a token, and by guesses that were right."""
        begun_s = self._clock()
        late = self._unfinished.expire(begun_s)
        works = self._scheduler.plan(self._budget)
        if not works:
            return late
        if self._speculator is not None:
            works = self._speculator.guess(works)
        outcome = self._runner.run(works, self._adapters.numbers)
        chunks = self._draw(works, outcome)
        pieces = [work.n_tokens for work in works if work.n_tokens > 1]
        seconds = self._clock() - begun_s
        self._budget.learn(len(works) - len(pieces), sum(pieces), seconds)
        if self._speculator is not None:
            self._speculator.learn(works, seconds)
        return late + self._unfinished.tell(chunks)

    def generate(self, requests: Iterable[GenerateRequest]) -> dict[str, TokenChunk]:
        """Run requests to their end; the whole answer of each one's first choice, by request id."""
        answers = self.generate_all(requests)
        return {request_id: choices[0] for request_id, choices in answers.items()}

    def generate_all(self, requests: Iterable[GenerateRequest]) -> dict[str, list[TokenChunk]]:
        """Run requests to their end; the whole answers of all choices, by request id.

        However many there are, only as many as the waiting line holds are taken at a time.

        Raises:
            ConflictError: requests that were added are being generated, or two have one id.
            MulmError: one cannot be taken; none is generated any more.
        """
        return answer_all(self, requests)

    def swap(self, model: LanguageModel) -> None:
        """Go on with other weights of the same shape from the next step on.

        No request is lost: what runs keeps its tokens, and its keys and values are computed anew.
        Adapters are kept.
        """
        assert model.config == self._runner.model.config, "another shape needs another engine"
        self._scheduler.read_anew()
        self._adapters.give_to(model)
        self._runner.swap(model)

    def speculate(self, speculation: Speculation) -> None:
        """Let this one guess from the next step on; answers do not change.

        Raises:
            ConfigError: it has another vocabulary; nothing has changed.
        """
        before, n_slots = self._speculator, self._scheduler.n_slots
        speculation.proposer.start(n_slots, self.max_seq_len, self.vocab_size)
        self._speculator = Speculator(speculation, n_slots, self._scheduler.room_ahead)
        if before is not None:
            self._speculator.go_on_from(before)

    def set_adapter(self, name: str, adapter: Adapter) -> None:
        """Hold a LoRA adapter, which requests can name, in the place of any that has that name.

        Raises:
            ConflictError: unfinished requests use the one that has the name.
            ConfigError: it is for another shape; nothing has changed.
        """
        is_known = name in self._adapters.numbers
        if is_known:
            self._require_unused(name)
        self._adapters.set(name, adapter, self._runner.model)
        if is_known:
            self._scheduler.pages.forget()

    def remove_adapter(self, name: str) -> None:
        """Hold it no longer; what was computed with it is not found again.

        Raises:
            UnknownNameError: there is none of that name.
            ConflictError: unfinished requests use it.
        """
        if name not in self._adapters.numbers:
            raise UnknownNameError(f"no adapter {name!r} is loaded")
        self._require_unused(name)
        self._adapters.remove(name, self._runner.model)
        self._scheduler.pages.forget()

    def check_integrity(self) -> None:
        """Assert the invariants: no page or slot leaked, nobody lost."""
        self._scheduler.check_integrity()
        unfinished = {(s.request.request_id, s.index) for s in self._unfinished}
        found = [(s.request.request_id, s.index) for s in self._scheduler]
        assert len(found) == len(set(found)), "a sequence stands in two places"
        assert set(found) == unfinished, "a sequence was lost"

    def _require_unused(self, adapter: str) -> None:
        if any(sequence.request.adapter == adapter for sequence in self._unfinished):
            raise ConflictError(
                f"the adapter {adapter!r} is in use", hint="let its requests end, or cancel them"
            )

    def _sequence(self, request: GenerateRequest, index: int, seed: int) -> Sequence:
        sequence, sampling = Sequence(request, index, seed), request.sampling
        if sampling.stops:
            if self._tokenizer is None:
                raise ConfigError("stop strings need the model's tokenizer", param="stop")
            sequence.stop_text = StopStrings(self._tokenizer, sampling.stops)
        if sampling.grammar is not None:
            if self._make_constraint is None:
                raise ConfigError(
                    "this engine cannot hold answers to a grammar",
                    hint="pip install llguidance where it runs",
                    param="grammar",
                )
            sequence.constraint = self._make_constraint(sampling.grammar, sampling.stop_token_ids)
        return sequence

    def _draw(self, works: list[Work], outcome: Outcome) -> list[TokenChunk]:
        """Draw the tokens of all who have read all of theirs."""
        complete = [number for number, work in enumerate(works) if work.is_complete]
        for number, work in enumerate(works):
            if work.sequence.wants_all_rows and not work.sequence.has_begun:
                look_at_rows(work, outcome.of(number), self._runner.logits)
        self._scheduler.advance(works)
        found = draw(works, complete, outcome, self._runner.logits)
        for drawn in found:
            self._generated_tokens += len(drawn.token_ids)
            if self._speculator is not None and drawn.work.guesses:
                self._scheduler.count(drawn.work.sequence, drawn.n_right)
                self._speculator.note(drawn.work, drawn.n_right)
        return [drawn.chunk() for drawn in found]
