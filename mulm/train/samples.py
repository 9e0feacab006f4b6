"""Samples: what the model under training says, told to a person who watches the run.

Called by the training loop between two steps. Invariants: nothing that is learned changes, since
weights are only read and every random number comes from a generator of its own; worker 0 alone
does it, and stops long before the others, who wait for it in their next sum, would give up; without
prompts of the user's it takes less than `SHARE` of the run's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from mulm.data.loader import TokenLoader
from mulm.data.tokenizer import Tokenizer
from mulm.engine.engine import Engine
from mulm.errors import ConfigError, DataError, MulmError
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.microlm import MicroLM
from mulm.train.context import TrainContext
from mulm.train.metrics import Metrics
from mulm.train.samples_config import SamplesConfig
from mulm.train.settled import SettledConfig

SHARE = 0.01
"""Of a run's time, for prompts that nobody asked for."""
LONGEST_S = 20.0
"""A third of the time that other workers wait for this one."""
_SHORTEST_S = 0.05
"""Nothing is generated in less."""
_N_PROMPTS, _PROMPT_TOKENS, _LOOKED_AT = 2, 12, 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """The beginning of a text, and its tokens."""

    text: str
    ids: tuple[int, ...]


class Samples:
    """The samples of one worker; those of all but worker 0 are none.

    Raises:
        ConfigError: a given prompt has more tokens than the model's window has room for.
        CorruptError: prompts are given, and the dataset's tokenizer cannot be read.
    """

    def __init__(
        self, config: SettledConfig, context: TrainContext, model: nn.Module, metrics: Metrics
    ) -> None:
        self._config, self._context, self._metrics = config, context, metrics
        self._asked = config.samples or SamplesConfig()
        self._is_on = context.rank == 0 and bool(config.samples) and isinstance(model, MicroLM)
        self._tokenizer: Tokenizer | None = None
        self._prompts: Sequence[Prompt] = ()
        self._began_s, self._spent_s, self._least_s = context.now_s(), 0.0, _SHORTEST_S
        if self._is_on and isinstance(model, MicroLM) and self._asked.prompts:
            window = model.config.max_seq_len
            self._prompts = given_prompts(self._asked, self._read_tokenizer(), window)

    def tell_if_due(self, model: nn.Module, before: int, step: int) -> None:
        """Generate and report, if this is the time for it; the clock of speed stands still."""
        if not self._is_on or not self._is_due(before, step):
            return
        started_s = self._context.now_s()
        room_s = self._room_s(started_s)
        if room_s < self._least_s:
            return
        assert isinstance(model, MicroLM)
        try:
            self._tell(model, step, room_s)
        except (MulmError, torch.OutOfMemoryError) as error:
            self._is_on = False
            self._metrics.event("log", text=f"no samples from now on: {error}")
        spent_s = self._context.now_s() - started_s
        self._spent_s += spent_s
        self._metrics.pause_clock(spent_s)

    def _is_due(self, before: int, step: int) -> bool:
        every = self._asked.every or self._config.validate_every
        return step // every > before // every or step == self._config.steps

    def _room_s(self, now_s: float) -> float:
        """How long it may take now."""
        if self._asked.prompts:
            return LONGEST_S
        return min(LONGEST_S, SHARE * (now_s - self._began_s) - self._spent_s)

    def _tell(self, model: MicroLM, step: int, room_s: float) -> None:
        self._prompts = self._prompts or self._held_out()
        answers = self._generate(model, room_s)
        is_whole = all(is_done for _, is_done in answers)
        if not is_whole and not self._asked.prompts:
            self._least_s = 2 * room_s  # half a text says little: again when there is more room
            return
        for number, (prompt, (text, _)) in enumerate(zip(self._prompts, answers, strict=True), 1):
            self._metrics.sample(step, number, prompt.text, text)

    def _generate(self, model: MicroLM, room_s: float) -> list[tuple[str, bool]]:
        """What follows each prompt, and whether there was time for all of it."""
        tokenizer, asked = self._read_tokenizer(), self._asked
        longest = max(len(prompt.ids) for prompt in self._prompts)
        max_tokens = min(asked.max_tokens, model.config.max_seq_len - longest)
        requests = [
            GenerateRequest(
                request_id=str(number),
                prompt_ids=prompt.ids,
                sampling=SamplingParams(
                    max_tokens, asked.temperature, seed=self._config.seed + number,
                    stop_token_ids=tokenizer.stop_ids,
                ),
                deadline_s=room_s,
            )
            for number, prompt in enumerate(self._prompts)
        ]  # fmt: skip
        window, clock = longest + max_tokens, self._context.now_s
        engine = Engine(model, len(requests), window, clock, seed=0, longest_step_s=None)
        answers = engine.generate(requests)
        chunks = [answers[request.request_id] for request in requests]
        return [(tokenizer.decode(c.token_ids), c.finish_reason != "deadline") for c in chunks]

    def _held_out(self) -> Sequence[Prompt]:
        """The first words of the first held-out documents."""
        config, tokenizer = self._config, self._read_tokenizer()
        loader = TokenLoader(
            self._context.store, self._context.dataset, "validation", seq_len=config.seq_len
        )
        windows = next(loader.iter_validation(_LOOKED_AT), None)
        if windows is None:
            raise DataError("nothing is held out to begin with", hint="name samples.prompts")
        ids = windows[0].flatten().tolist()
        begins = [at for at, token in enumerate(ids) if token == tokenizer.end_of_text_id]
        begins = [at for at in begins if at + _PROMPT_TOKENS < len(ids)] or [0]
        parts = [tuple(ids[at : at + _PROMPT_TOKENS]) for at in begins[:_N_PROMPTS]]
        return [Prompt(tokenizer.decode(part), part) for part in parts]

    def _read_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            store, dataset = self._context.store, self._context.dataset
            self._tokenizer = Tokenizer.from_bytes(store.read(dataset.blob("tokenizer.json")))
        return self._tokenizer


def given_prompts(asked: SamplesConfig, tokenizer: Tokenizer, window: int) -> list[Prompt]:
    """The user's prompts, each as the beginning of a document.

    Raises:
        ConfigError: one has more tokens than the model's window has room for.
    """
    begin_id, room = tokenizer.end_of_text_id, window - asked.max_tokens
    prompts = [Prompt(text, (begin_id, *tokenizer.encode(text))) for text in asked.prompts]
    for prompt in prompts:
        if len(prompt.ids) > room:
            raise ConfigError(
                f"samples.prompts: one has {len(prompt.ids)} tokens, and with"
                f" max_tokens {asked.max_tokens} the window of {window} has room"
                f" for {max(0, room)}",
                hint="shorten it, or lower samples.max_tokens",
            )
    return prompts
