"""The engine on the real model, tiny, fp32: the fast ways equal the simple way."""

from __future__ import annotations

import pytest
import torch

from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM

CONFIG = MicroLMConfig(
    vocab_size=97, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48,
    max_seq_len=96, tie_embeddings=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> MicroLM:
    """Weights are scaled up, so that the next token depends on the text and not on rounding."""
    made = MicroLM(CONFIG).init_weights(torch.Generator().manual_seed(1))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.4, generator=generator)
    return made.eval()


def request(number: int, temperature: float = 0.0, max_tokens: int = 24) -> GenerateRequest:
    prompt = tuple((number * 31 + i * 7) % CONFIG.vocab_size for i in range(3 + 5 * number))
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=number)
    return GenerateRequest(f"r{number}", prompt, params)


REQUESTS = [request(n) for n in range(6)] + [request(n + 6, temperature=1.0) for n in range(4)]


@torch.no_grad()
def uncached(model: MicroLM, one: GenerateRequest) -> tuple[int, ...]:
    """Greedy text, the whole sequence read anew for every token."""
    ids = list(one.prompt_ids)
    for _ in range(one.sampling.max_tokens):
        ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    return tuple(ids[len(one.prompt_ids) :])


def test_cached_equals_uncached(model):
    answers = Engine(model, n_slots=1).generate(REQUESTS[:6])
    for one in REQUESTS[:6]:
        text = uncached(model, one)
        assert answers[one.request_id].token_ids == text
        assert len(set(text)) > 3, "a text that repeats one token would prove little"


@pytest.mark.parametrize("n_slots", [2, 5, 10])
@pytest.mark.parametrize("prefill_tokens", [4, 256])
def test_batched_equals_alone(model, n_slots, prefill_tokens):
    alone = {}
    for one in REQUESTS:
        alone |= Engine(model, n_slots=1).generate([one])
    together = Engine(model, n_slots=n_slots, prefill_tokens=prefill_tokens)
    assert together.generate(REQUESTS) == alone
    together.check_integrity()


def test_a_cancelled_neighbour_changes_nothing(model):
    engine = Engine(model, n_slots=3)
    engine.add(request(1))
    engine.add(request(2))
    engine.step()
    assert engine.cancel("r1")
    engine.check_integrity()
    late = request(3)
    engine.add(late)
    tokens: dict[str, tuple[int, ...]] = {"r2": (), "r3": ()}
    first = uncached(model, request(2))[0]
    while engine.n_unfinished:
        for chunk in engine.step():
            tokens[chunk.request_id] += chunk.token_ids
    assert (first, *tokens["r2"]) == uncached(model, request(2))
    assert tokens["r3"] == uncached(model, late)


def test_the_last_position_of_the_window_is_usable(model):
    prompt = tuple(range(90))
    one = GenerateRequest("x", prompt, SamplingParams(max_tokens=6, temperature=0))
    assert Engine(model, n_slots=2).generate([one])["x"].token_ids == uncached(model, one)
