"""Guesses change no answer, whoever makes them; and they stop where they do not pay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.tokenizer import train_tokenizer
from mulm.engine.draft_model import DraftModel
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Proposer, Speculation
from mulm.errors import ConfigError
from mulm.messages import GenerateRequest, SamplingParams, TokenChunk
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.native.build import NoKernelsError, build
from mulm.native.model import NativeModel

CONFIG = FakeConfig(vocab_size=288, max_seq_len=96)
Answer = tuple[TokenChunk, ...]


class Noise:
    """Any number of any tokens."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.asked: list[GenerateRequest] = []

    def start(self, n_slots: int, max_seq_len: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def propose(self, sequences, counts) -> list[list[int]]:
        self.asked += [s.request for s in sequences]
        return [
            self.guesses(s, self.random.randint(0, n))
            for s, n in zip(sequences, counts, strict=True)
        ]

    def guesses(self, sequence, n: int) -> list[int]:
        return [self.random.randrange(self.vocab_size) for _ in range(n)]


class Oracle(Noise):
    """Knows the answers, and lies now and then."""

    def __init__(self, answers: dict[str, Answer], lies: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.answers, self.lies = answers, lies

    def guesses(self, sequence, n: int) -> list[int]:
        choices = self.answers[sequence.request.request_id]
        if sequence.index >= len(choices):
            return []  # of `best_of`, not told
        whole = choices[sequence.index].token_ids
        right = whole[sequence.n_generated : sequence.n_generated + n]
        return [
            self.random.randrange(self.vocab_size) if self.random.random() < self.lies else token_id
            for token_id in right
        ]


def request(name: str, prompt=(1, 2, 3), max_tokens=20, temperature=0.0, **sampling):
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, **sampling)
    return GenerateRequest(name, tuple(prompt), params)


def fake(salt: int = 0) -> FakeModel:
    return FakeModel(CONFIG, salt)


TOKENIZER = train_tokenizer([], CONFIG.vocab_size)


def engine(proposer: Proposer | None, model=None, **options) -> Engine:
    speculation = None if proposer is None else Speculation(proposer)
    return Engine(
        model or fake(), tokenizer=TOKENIZER, speculation=speculation,
        **{"clock": lambda: 0.0, **options},
    )  # fmt: skip


def answers(requests, proposer: Proposer | None = None, **options) -> dict[str, Answer]:
    under_test = engine(proposer, **options)
    found = under_test.generate_all(requests)
    under_test.check_integrity()
    return {name: tuple(choices) for name, choices in found.items()}


WHOLE = answers([request("a", max_tokens=40)])["a"][0].token_ids
STOP = next(c for c in TOKENIZER.decode(WHOLE[6:]) if c.isascii() and c.isprintable())
REQUESTS = [
    request("greedy", max_tokens=40),
    request("sampled", (3,), 40, 1.0, seed=7),
    request("cut", (4, 5), 40, 0.8, seed=3, top_k=20, top_p=0.9),
    request("told", (4, 5, 6), 30, 1.0, seed=1, logprobs=3),
    request("stop string", max_tokens=40, stops=("never", STOP)),
    request("stop token", max_tokens=40, stop_token_ids=(WHOLE[9],)),
    request("held back", max_tokens=40, stop_token_ids=(WHOLE[2], WHOLE[9]), min_tokens=5),
    request("biased", (8,), 30, 1.0, seed=4, logit_bias=((5, 4.0), (6, 4.0))),
    request("punished", (8,), 30, 1.0, seed=4, frequency_penalty=0.5),
    request("one", (9,), 1),
    replace(request("choices", (7,) * 20, 25, 1.0, seed=5), n=3),
    replace(request("best", (7,) * 9, 12, 1.0, seed=6), n=1, best_of=3),
]
PLAIN = answers(REQUESTS)
PROPOSERS: dict[str, Callable[[], Proposer]] = {
    "noise": Noise,
    "right": lambda: Oracle(PLAIN, 0.0),
    "mostly right": lambda: Oracle(PLAIN, 0.2),
    "lookup": PromptLookup,
    "itself": lambda: DraftModel(fake()),
    "another": lambda: DraftModel(fake(salt=9)),
    "short window": lambda: DraftModel(FakeModel(replace(CONFIG, max_seq_len=30))),
}


def text(chunks: Answer) -> list[tuple[object, ...]]:
    """What a client sees; where prefixes were found depends on who ran beside."""
    return [(c.token_ids, c.finish_reason, c.logprobs) for c in chunks]


@pytest.mark.parametrize("proposer", PROPOSERS)
@pytest.mark.parametrize(("n_slots", "n_pages"), [(1, None), (4, None), (20, None), (4, 9)])
def test_answers_are_those_of_plain_decoding(proposer, n_slots, n_pages):
    found = answers(REQUESTS, PROPOSERS[proposer](), n_slots=n_slots, n_pages=n_pages)
    assert {name: text(x) for name, x in found.items()} == {
        name: text(x) for name, x in PLAIN.items()
    }


def test_right_guesses_save_steps():
    one = request("greedy", max_tokens=40)
    model = fake()
    under_test = engine(Oracle(PLAIN, 0.0), model, n_slots=1)
    under_test.generate([one])
    assert len(model.batches) < 15
    stats = under_test.stats()
    assert stats.proposed_tokens == stats.accepted_tokens > 25


@pytest.mark.parametrize("proposer", ["itself", "right"])
def test_a_draft_of_equal_distribution_is_always_right(proposer):
    sampled = [r for r in REQUESTS if r.request_id in ("greedy", "sampled", "cut")]
    under_test = engine(PROPOSERS[proposer](), n_slots=3)
    under_test.generate(sampled)
    stats = under_test.stats()
    assert stats.accepted_tokens == stats.proposed_tokens > 60


def test_noise_is_counted_and_asked_for_ever_more_seldom():
    under_test = engine(Noise(), n_slots=1)
    under_test.generate([request("a", max_tokens=90)])
    stats = under_test.stats()
    assert stats.accepted_tokens <= 2
    assert stats.proposed_tokens < 15


def test_a_rejected_token_is_in_no_page_that_is_found_again():
    prompt = tuple(range(14))
    under_test = engine(Noise(), n_slots=1)
    first = under_test.generate([request("a", prompt, 40)])["a"]
    longer = request("b", (*prompt, *first.token_ids), 20)
    again = under_test.generate([longer])["b"]
    assert again.n_cached_tokens == 48
    assert again.token_ids == answers([longer])["b"][0].token_ids


def test_guesses_take_pages_from_nobody():
    requests = [request(f"r{n}", (n,) * 14, 20) for n in range(2)]
    under_test = engine(DraftModel(fake()), n_slots=2, n_pages=6)
    under_test.generate(requests)
    assert under_test.stats().n_preemptions == 0
    assert under_test.stats().accepted_tokens > 20


def test_another_proposer_takes_over_and_numbers_go_on():
    under_test = engine(Oracle(PLAIN, 0.0), n_slots=2)
    under_test.add(REQUESTS[0])
    told = [chunk for _ in range(4) for chunk in under_test.step()]
    n_before = under_test.stats().accepted_tokens
    assert n_before > 0
    with pytest.raises(ConfigError):
        under_test.speculate(Speculation(DraftModel(FakeModel(FakeConfig(vocab_size=50)))))
    under_test.speculate(Speculation(DraftModel(fake())))
    while under_test.n_unfinished:
        told += under_test.step()
    whole = PLAIN["greedy"][0].token_ids
    assert tuple(token_id for chunk in told for token_id in chunk.token_ids) == whole
    assert under_test.stats().accepted_tokens > n_before + 10


class Silent(Noise):
    """Knows nothing, and takes a second to say so."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    def propose(self, sequences, counts) -> list[list[int]]:
        self.clock[0] += 1.0
        return [[] for _ in sequences]


def test_a_step_in_which_nobody_had_guesses_is_not_taken_for_a_plain_one():
    now = [0.0]
    under_test = engine(Silent(now), n_slots=1, clock=lambda: now[0])
    under_test.add(request("a", max_tokens=60))
    while under_test.n_unfinished:
        under_test.step()
    assert under_test._speculator is not None
    assert under_test._speculator._payoff.is_wanted(1)


lives = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(range(len(REQUESTS)))),
        st.tuples(st.just("cancel"), st.sampled_from(range(len(REQUESTS)))),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("swap"), st.none()),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(
    life=lives,
    proposer=st.sampled_from(sorted(PROPOSERS)),
    n_slots=st.integers(1, 5),
    n_pages=st.integers(7, 16),
    prefill_tokens=st.sampled_from([5, 200]),
)
def test_random_lives(life, proposer, n_slots, n_pages, prefill_tokens):
    under_test = engine(
        PROPOSERS[proposer](), n_slots=n_slots, n_pages=n_pages, prefill_tokens=prefill_tokens
    )
    told: dict[tuple[str, int], tuple[int, ...]] = {}
    ended: set[tuple[str, int]] = set()
    added: set[str] = set()

    def step() -> None:
        for chunk in under_test.step():
            key = (chunk.request_id, chunk.index)
            assert key not in ended, "a choice goes on after its end"
            told[key] = told.get(key, ()) + chunk.token_ids
            if chunk.finish_reason:
                ended.add(key)
                assert chunk.finish_reason == PLAIN[key[0]][key[1]].finish_reason
        under_test.check_integrity()

    for action, value in life:
        if action == "add" and REQUESTS[value].request_id not in added:
            added.add(REQUESTS[value].request_id)
            under_test.add(REQUESTS[value])
        elif action == "cancel":
            under_test.cancel(REQUESTS[value].request_id)
        elif action == "swap":
            under_test.swap(fake())  # the same weights: answers stay the same
        elif action == "step":
            for _ in range(value):
                step()
        under_test.check_integrity()
    for _ in range(4000):
        if not under_test.n_unfinished:
            break
        step()
    stats = under_test.stats()
    assert stats.n_free_pages == stats.n_pages
    for (name, index), ids in told.items():
        whole = PLAIN[name][index].token_ids
        assert ids == (whole if (name, index) in ended else whole[: len(ids)])


SHAPE = MicroLMConfig(
    vocab_size=97, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48,
    max_seq_len=96, tie_embeddings=False,
)  # fmt: skip


def micro(seed: int = 2) -> MicroLM:
    """Weights are scaled up, so that the next token depends on the text and not on rounding."""
    made = MicroLM(SHAPE).init_weights(torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.4, generator=generator)
    return made.eval()


@pytest.fixture(scope="module", params=["torch", "fp32 kernels", "bf16 kernels"])
def real_model(request):
    if request.param == "torch":
        return micro()
    folder = Path(request.config.cache.mkdir("kernels"))
    try:
        build(folder)
    except NoKernelsError as error:
        pytest.skip(f"no kernels: {error.message}")
    model = micro()
    return NativeModel(model.bfloat16() if "bf16" in request.param else model, folder, 2)


@pytest.mark.parametrize("proposer", ["noise", "lookup", "itself", "another", "mostly right"])
@pytest.mark.parametrize("n_slots", [1, 6])
def test_real_models_answer_alike(real_model, proposer, n_slots):
    requests = [
        request(f"r{n}", [(n * 31 + i % 5 * 7) % 97 for i in range(3 + 5 * n)], 40, n % 2, seed=n)
        for n in range(8)
    ]
    requests[3] = replace(
        requests[3], n=2, sampling=replace(requests[3].sampling, logprobs=2, top_p=0.9)
    )
    punished = {"presence_penalty": 0.7, "repetition_penalty": 1.3}
    requests[4:6] = [replace(r, sampling=replace(r.sampling, **punished)) for r in requests[4:6]]
    plain = answers(requests, model=real_model, n_slots=n_slots)
    made: dict[str, Callable[[], Proposer]] = {
        "noise": Noise,
        "lookup": PromptLookup,
        "itself": lambda: DraftModel(real_model),
        "another": lambda: DraftModel(micro(seed=3)),
        "mostly right": lambda: Oracle(plain, 0.2),
    }
    under_test = engine(made[proposer](), real_model, n_slots=n_slots)
    found = under_test.generate_all(requests)
    under_test.check_integrity()
    for one in requests:
        for mine, wanted in zip(found[one.request_id], plain[one.request_id], strict=True):
            assert (mine.token_ids, mine.finish_reason) == (wanted.token_ids, wanted.finish_reason)
            is_exact = isinstance(real_model, NativeModel)
            assert [x.logprob for x in mine.logprobs] == pytest.approx(
                [x.logprob for x in wanted.logprobs], abs=0.0 if is_exact else 1e-4
            )
    assert under_test.stats().proposed_tokens > 0
