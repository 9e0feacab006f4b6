"""Answers to the bit: a request alone is the request in any company, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeModel
from mulm.engine.graph_tape import TapeRecorder
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Speculation
from mulm.errors import ConfigError
from mulm.messages import GenerateRequest, SamplingParams, TokenChunk, join_chunks
from mulm.model.batch import Rows
from mulm.model.config import MicroLMConfig
from mulm.model.lora import adapt, adapter_of
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.testing import tiny_model

CONFIG = MicroLMConfig(
    vocab_size=97, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48,
    max_seq_len=400, tie_embeddings=False,
)  # fmt: skip


def loud(seed: int = 0, kind: type[MicroLM] = MicroLM) -> MicroLM:
    """Weights scaled up, so that the text matters and rounding shows."""
    made = tiny_model(seed, CONFIG)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    model = kind(CONFIG)
    model.load_state_dict(made.state_dict())
    return model.eval()


def request(number: int, **changes: Any) -> GenerateRequest:
    """Asks for the log-probabilities of the whole vocabulary after each token."""
    prompt = tuple((number * 31 + i * i) % CONFIG.vocab_size for i in range(3 + 45 * number))
    params = SamplingParams(
        max_tokens=36, temperature=number % 2, seed=number, logprobs=CONFIG.vocab_size,
        prompt_logprobs=1 if number == 3 else None,
    )  # fmt: skip
    return replace(GenerateRequest(f"r{number}", prompt, params), **changes)


REQUESTS = [request(n) for n in range(7)]
"""Prompts of 3 to 273 tokens: in several pieces, and both widths."""


def engine(model: Any = None, **settings: Any) -> Engine:
    return Engine(
        model or loud(), clock=lambda: 0.0, seed=0, batch_invariant=True,
        **{"n_slots": 7} | settings,
    )  # fmt: skip


def facts(answer: TokenChunk) -> object:
    """All that hangs on logits, to the bit; not how many tokens were found in pages."""
    return replace(answer, n_cached_tokens=0)


@pytest.fixture(scope="module")
def alone() -> dict[str, object]:
    return {r.request_id: facts(engine(n_slots=1).generate([r])[r.request_id]) for r in REQUESTS}


@pytest.mark.parametrize("settings", [
    {},
    {"prefill_tokens": 5},
    {"n_slots": 3},
    {"n_pages": 22},
    {"speculation": True},
    {"recorder": True},
    {"recorder": True, "n_pages": 22, "prefill_tokens": 40, "speculation": True},
], ids=lambda settings: ", ".join(settings) or "together")  # fmt: skip
def test_bits_are_those_of_the_request_alone(
    alone: dict[str, object], settings: dict[str, Any]
) -> None:
    """Beside others, in other pieces, after pages were lost, guessed for, from graphs."""
    made = dict(settings)
    if "speculation" in made:
        made["speculation"] = Speculation(PromptLookup(), 3)
    if "recorder" in made:
        made["recorder"] = TapeRecorder()
    under_test = engine(**made)
    found = {name: facts(answer) for name, answer in under_test.generate(REQUESTS).items()}
    assert found == alone
    assert bool(under_test.stats().n_preemptions) == ("n_pages" in made)
    under_test.check_integrity()


@pytest.mark.parametrize("seed", range(4))
def test_bits_are_those_of_the_request_alone_in_random_lives(
    alone: dict[str, object], seed: int
) -> None:
    """Arrivals, cancels, swaps to the same weights and pages that are lost between the steps."""
    random = Random(seed)
    under_test = engine(
        n_slots=3, n_pages=26, prefill_tokens=random.choice((5, 40)),
        speculation=Speculation(PromptLookup(), 3), recorder=TapeRecorder() if seed % 2 else None,
    )  # fmt: skip
    asked: dict[str, str] = {}
    told: dict[str, list[TokenChunk]] = {}
    for number in range(12):
        one = random.choice(REQUESTS)
        name = f"life{number}"
        under_test.add(replace(one, request_id=name))
        asked[name] = one.request_id
        if random.random() < 0.2:
            gone = random.choice(list(asked))
            if under_test.cancel(gone):
                del asked[gone]
        if random.random() < 0.2:
            under_test.swap(loud())
        for _ in range(random.randrange(12) if number < 11 else 2000):
            for chunk in under_test.step():
                told.setdefault(chunk.request_id, []).append(chunk)
            under_test.check_integrity()
    assert not under_test.n_unfinished
    assert len(asked) > 6
    for name, like in asked.items():
        assert facts(replace(join_chunks(told[name]), request_id=like)) == alone[like]


def test_bits_do_not_hang_on_who_wrote_a_page() -> None:
    """A prompt finds pages that hold an answer: its own reading of them would be the same."""
    under_test = engine()
    first = request(2, sampling=SamplingParams(max_tokens=40, temperature=0))
    said = under_test.generate([first])["r2"].token_ids
    again = request(4, prompt_ids=first.prompt_ids + said)
    found = under_test.generate([again])["r4"]
    assert found.n_cached_tokens > len(first.prompt_ids)
    assert facts(found) == facts(engine().generate([again])["r4"])


def test_bits_with_adapters_beside_each_other() -> None:
    adapters = {}
    for number, name in enumerate(("one", "two")):
        generator = torch.Generator().manual_seed(number)
        made = adapt(loud(), rank=3, scale=2, matrices=["q", "v", "down"], generator=generator)
        for key, parameter in made.named_parameters():
            if "lora" in key:
                parameter.data.normal_(0, 0.5, generator=generator)
        adapters[name] = adapter_of(made)
    asked = [
        replace(each, adapter=name)
        for each, name in zip(
            REQUESTS, ("one", None, "two", "one", None, "two", "one"), strict=True
        )
    ]

    def answers(*requests: GenerateRequest) -> dict[str, object]:
        under_test = engine()
        for name, adapter in adapters.items():
            under_test.set_adapter(name, adapter)
        return {name: facts(found) for name, found in under_test.generate(requests).items()}

    together = answers(*asked)
    for each in asked:
        assert answers(each)[each.request_id] == together[each.request_id]
    assert together["r0"] != facts(engine().generate([REQUESTS[0]])["r0"])
    assert together["r1"] == facts(engine().generate([REQUESTS[1]])["r1"])


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_bits_of_quantised_weights(bits: Any) -> None:
    model = QuantizedMicroLM.of(loud(), Quantization(linear=bits, embedding=bits))
    together = engine(model).generate(REQUESTS[:4])
    for each in REQUESTS[:4]:
        found = engine(model, n_slots=1).generate([each])[each.request_id]
        assert facts(found) == facts(together[each.request_id])


def test_bits_after_other_weights_are_those_of_the_other_weights() -> None:
    under_test, other = engine(), loud(5)
    under_test.generate(REQUESTS[:3])
    under_test.swap(other)
    found = under_test.generate(REQUESTS[:3])
    assert found == engine(other).generate(REQUESTS[:3])


class ByPlace(MicroLM):
    """Kernels that treat the last row by themselves."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        hidden_BD = super().read_rows(rows, cache)
        hidden_BD[-1] *= 1 + 2**-20
        return hidden_BD


class ByNeighbour(MicroLM):
    """Kernels in which rows share a scale."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        hidden_BD = super().read_rows(rows, cache)
        return hidden_BD / hidden_BD.abs().mean()


class ByWidth(MicroLM):
    """Kernels that are chosen by how many pages there are."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        return super().read_rows(rows, cache) * (1 + 2**-20 * (rows.pages_BP.shape[1] > 16))


class InLogits(MicroLM):
    """Kernels of logits that treat the first row by themselves."""

    def logits(self, hidden_XD: torch.Tensor) -> torch.Tensor:
        logits_XV = super().logits(hidden_XD)
        logits_XV[0] *= 1 + 2**-20
        return logits_XV


@pytest.mark.parametrize("kind", [ByPlace, ByNeighbour, ByWidth, InLogits])
def test_a_device_that_cannot_is_refused(kind: type[MicroLM]) -> None:
    with pytest.raises(ConfigError, match="does not compute all of them alike") as caught:
        engine(loud(kind=kind))
    assert caught.value.details["param"] == "batch_invariant"


class Recorded(MicroLM):
    """Kernels that are others when they are recorded."""

    is_recording = False

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        return super().read_rows(rows, cache) * (1 + 2**-20 * self.is_recording)


class Recording(TapeRecorder):
    """Tells the model when it records."""

    def record(self, act: Callable[[], None]) -> Callable[[], None]:
        Recorded.is_recording = True
        try:
            return super().record(act)
        finally:
            Recorded.is_recording = False


def test_steps_that_are_run_beside_repeated_ones_have_the_same_bits() -> None:
    """As those are in which a row has an adapter."""
    with pytest.raises(ConfigError, match="does not compute all of them alike"):
        engine(loud(kind=Recorded), recorder=Recording())


def test_models_that_are_alike_by_themselves_stay_as_they_are() -> None:
    one = GenerateRequest("a", (1, 2), SamplingParams(max_tokens=3, seed=0))
    model = FakeModel()
    assert engine(model).generate([one]) == Engine(model, n_slots=1).generate([one])

    class Other(FakeModel):
        is_batch_invariant = False

    with pytest.raises(ConfigError, match="in any batch"):
        engine(Other())
