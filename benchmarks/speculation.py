"""What guessing tokens gives: plain decoding beside prompt lookup and a draft model.

    python -m benchmarks.speculation
    python -m benchmarks.speculation --shape 20M --threads 2 --rounds 3
    python -m benchmarks.speculation --presence-penalty 0.5   # rows are drawn in order

Weights are random, so texts are made: a step is computed whole, then the wanted token's logit is
raised above all others. The repetitive text comes again every 40 tokens; in the random one no run
of tokens returns. The draft has a tenth of the work and is right four times in five, as no draft
with random weights would be. Ways take turns in each round; a line is one reading of tokens a
second, with its ratio to plain decoding in the same round. Learning whether it pays is part of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.serve_engine import KERNELS
from benchmarks.serve_shapes import SHAPES, random_model
from mulm.engine.draft_model import DraftModel
from mulm.engine.engine import Engine
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Speculation
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.adapter import Adapter
from mulm.model.batch import Batch
from mulm.model.config import MicroLMConfig
from mulm.native.model import NativeModel

BATCHES = (1, 8, 32)
PROMPT, NEW = 96, 256
PERIOD = 40
ACCURACY = 0.8
ABOVE_ALL = 1e4

NextId = Callable[[int, int], int]
"""The token after one that stands at a position."""


class Scripted:
    """A `LanguageModel` that does all the work of another and says what a script has next.

    The next token travels as one more column of the hidden states: fp32 holds it exactly.
    """

    is_batch_invariant = True

    def __init__(self, native: NativeModel, next_id: NextId) -> None:
        self.native, self.config, self._next_id = native, native.config, next_id

    def make_cache(self, n_pages: int) -> Any:
        """As `LanguageModel.make_cache`."""
        return self.native.make_cache(n_pages)

    def page_bytes(self) -> int:
        """As `LanguageModel.page_bytes`."""
        return self.native.page_bytes()

    def set_adapter(self, number: int, adapter: Adapter) -> None:
        """As `LanguageModel.set_adapter`."""
        self.native.set_adapter(number, adapter)

    def remove_adapter(self, number: int) -> None:
        """As `LanguageModel.remove_adapter`."""
        self.native.remove_adapter(number)

    def extend(self, batch: Batch, cache: Any) -> Tensor:
        """As `LanguageModel.extend`."""
        hidden_RD = self.native.extend(batch, cache)
        wanted_R = batch.wanted_R.long()
        at = zip(batch.ids_T[wanted_R].tolist(), batch.positions_T[wanted_R].tolist(), strict=True)
        next_R1 = torch.tensor([[float(self._next_id(*place))] for place in at])
        return torch.cat([hidden_RD, next_R1], dim=1)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """As `LanguageModel.logits`."""
        logits_RV = self.native.logits(hidden_RD[:, :-1].contiguous())
        logits_RV[torch.arange(len(hidden_RD)), hidden_RD[:, -1].long()] = ABOVE_ALL
        return logits_RV


def repetitive(vocab_size: int) -> NextId:
    """Runs in circles of `PERIOD` tokens."""
    del vocab_size
    return lambda token_id, _: token_id - token_id % PERIOD + (token_id + 1) % PERIOD


def random(vocab_size: int) -> NextId:
    """Any token, a function of the last one and its position."""
    return lambda token_id, position: Random(f"{token_id} {position}").randrange(vocab_size)


def mostly(next_id: NextId, vocab_size: int) -> NextId:
    """Another token once in five times."""

    def guess(token_id: int, position: int) -> int:
        is_right = Random(f"draft {token_id} {position}").random() < ACCURACY
        right = next_id(token_id, position)
        return right if is_right else (right + 1) % vocab_size

    return guess


def main() -> None:
    """Print every reading."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="20M")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presence-penalty", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # OpenMP's waiting threads would take the cores from the kernels'
    config = SHAPES[options.shape]
    native = NativeModel(random_model(config), KERNELS, options.threads)
    draft = NativeModel(random_model(small(config)), KERNELS, options.threads)
    for text in (repetitive, random):
        for n in BATCHES:
            compare(text, n, native, draft, options)


def small(config: MicroLMConfig) -> MicroLMConfig:
    """A draft's shape: of the same vocabulary, a third as wide and a quarter as deep."""
    changes = {"d_model": 128, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "d_ff": 352}
    return config.model_copy(update=changes)


def compare(
    text: Callable[[int], NextId],
    n: int,
    native: NativeModel,
    draft: NativeModel,
    options: argparse.Namespace,
) -> None:
    """All ways in turn; their engines live as long as a server's would."""
    next_id = text(native.config.vocab_size)
    guess = mostly(next_id, native.config.vocab_size)
    ways = {
        "plain": None,
        "lookup": Speculation(PromptLookup()),
        "draft": Speculation(DraftModel(Scripted(draft, guess))),
    }
    engines = {
        name: Engine(Scripted(native, next_id), n, 512, speculation=way)
        for name, way in ways.items()
    }
    params = SamplingParams(NEW, 0.0, presence_penalty=options.presence_penalty)
    for number in range(options.rounds):
        plain = 0.0
        for name, engine in engines.items():
            before = engine.stats()
            rate = tokens_per_s(engine, next_id, n, number, params)
            plain = plain or rate
            stats = engine.stats()
            proposed = stats.proposed_tokens - before.proposed_tokens
            accepted = stats.accepted_tokens - before.accepted_tokens
            print(
                f"{text.__name__} batch {n} round {number} {name}: {rate:,.0f} tokens/s"
                f" ratio {rate / plain:.2f} accepted {accepted} of {proposed}",
                flush=True,
            )


def tokens_per_s(
    engine: Engine, next_id: NextId, n: int, number: int, params: SamplingParams
) -> float:
    """Of `n` streams, from the step in which the last of them has begun."""
    for row in range(n):
        ids = [PERIOD * (1 + row + n * number)]
        while len(ids) < PROMPT:
            ids.append(next_id(ids[-1], len(ids) - 1))
        engine.add(GenerateRequest(f"{number}-{row}", tuple(ids), params))
    while engine.stats().generated_tokens < n * (NEW * number) + n:
        engine.step()
    begin, begin_s = engine.stats().generated_tokens, time.perf_counter()
    while engine.n_unfinished:
        engine.step()
    return (engine.stats().generated_tokens - begin) / (time.perf_counter() - begin_s)


if __name__ == "__main__":
    main()
