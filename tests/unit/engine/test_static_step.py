"""Steps of fixed shape, run eagerly and repeated from a tape, give what `extend` gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mulm.engine.graph import record_all
from mulm.engine.graph_tape import TapeRecorder
from mulm.engine.static_probe import Probe
from mulm.engine.static_shapes import Shape, Shapes
from mulm.engine.static_step import StaticStep
from mulm.model.adapter import Adapter, LowRank
from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.testing import tiny_model

CONFIG = MicroLMConfig(
    vocab_size=97, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48,
    max_seq_len=600,
)  # fmt: skip
LENGTHS = (255, 1, 15, 16, 33, 100, 200, 47, 257, 300, 560)
"""Of the sequences before a step: empty pages, whole ones, and all widths."""
WIDEST = {16: 0, 32: 9, 48: 10}
"""A sequence that makes a step so many pages wide."""
N_PAGES = 160
SPARE = N_PAGES
Part = tuple[list[int], int, list[int]]


@pytest.fixture(autouse=True)
def _as_the_engine_does() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model() -> MicroLM:
    """Weights scaled up, so that the numbers depend on the text."""
    made = tiny_model(config=CONFIG)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    return made


class Case:
    """A model, the same texts in two caches, and a step of fixed shape over the second."""

    def __init__(self, model: MicroLM, how: str, n_slots: int = 8, batch: bool = False) -> None:
        self.model = model
        self.caches = [model.make_cache(N_PAGES + 1) for _ in range(2)]
        window = N_PAGES * PAGE_TOKENS
        shapes_of = Shapes.invariant if batch else Shapes.of_steps
        shapes = shapes_of(n_slots, CONFIG.max_seq_len // PAGE_TOKENS)
        self.step = StaticStep(model, self.caches[1], SPARE, shapes, batch)
        self.tape = TapeRecorder()
        if how == "repeated":
            probe = Probe(model, self.caches[1], min(window, CONFIG.max_seq_len))
            assert not record_all(self.step, probe, self.tape).problem
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(CONFIG.vocab_size, (len(LENGTHS), CONFIG.max_seq_len),
                            generator=generator)  # fmt: skip
        self.texts = ids.tolist()
        free = torch.randperm(N_PAGES, generator=generator).tolist()
        self.pages = []
        for length in LENGTHS:
            n_pages = (length + 20) // PAGE_TOKENS + 1
            self.pages.append(free[:n_pages])
            free = free[n_pages:]
        for cache in self.caches:
            for layer in (cache.k_LPXKH, cache.v_LPXKH):
                layer.fill_(float("nan"))  # what a broken model left there
            for number, length in enumerate(LENGTHS):
                model.extend(Batch.of((self.texts[number][:length], 0, self.pages[number])), cache)

    def part(self, number: int, n_tokens: int = 1) -> Part:
        """The next tokens of one of the texts."""
        at = LENGTHS[number]
        return self.texts[number][at : at + n_tokens], at, self.pages[number]

    def compare(self, batch: Batch) -> None:
        """What both say, and what both caches hold of every sequence afterwards."""
        expected_RD = self.model.extend(batch, self.caches[0])
        assert self.step.takes(batch)
        found_RD = self.step.run(batch)
        torch.testing.assert_close(found_RD, expected_RD, rtol=1e-4, atol=1e-4)
        expected_RV = self.model.logits(expected_RD)
        torch.testing.assert_close(self.step.logits(found_RD), expected_RV, rtol=1e-4, atol=1e-3)
        assert (self.step.logits(found_RD).argmax(1) == expected_RV.argmax(1)).all()
        for plain, static in zip(*map(_of_sequences, self.caches), strict=True):
            torch.testing.assert_close(static, plain, rtol=1e-4, atol=1e-4, equal_nan=True)


def _of_sequences(cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return cache.k_LPXKH[:, :SPARE], cache.v_LPXKH[:, :SPARE]


@pytest.mark.parametrize("how", ["eager", "repeated"])
@pytest.mark.parametrize("width", [16, 32, 48])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 8])
def test_streams_of_mixed_lengths(model: MicroLM, how: str, n_rows: int, width: int) -> None:
    """Every shape, full and padded."""
    numbers = [*range(1, n_rows), WIDEST[width]]
    case = Case(model, how)
    before = case.tape.n_repeated
    batch = Batch.of(*(case.part(number) for number in numbers))
    shape = case.step.shapes.smallest(n_rows, int(batch.positions_T.max()) // PAGE_TOKENS + 1)
    assert shape == Shape({3: 4, 5: 8}.get(n_rows, n_rows), width)
    case.compare(batch)
    assert case.tape.n_repeated - before == (how == "repeated")


@pytest.mark.parametrize("how", ["eager", "repeated"])
def test_the_same_shape_again_with_other_contents(model: MicroLM, how: str) -> None:
    case = Case(model, how)
    for numbers in ([1, 3], [7, 2], [4], [6, 5], [8, 9], [10, 0]):
        case.compare(Batch.of(*(case.part(number) for number in numbers)))


@pytest.mark.parametrize("how", ["eager", "repeated"])
def test_several_tokens_of_a_sequence_are_rows_that_see_each_other(model: MicroLM, how) -> None:
    """As of short prompts and of guesses, over the border of a page, all rows wanted."""
    case = Case(model, how)
    case.compare(Batch.of(case.part(2, 3), case.part(0), case.part(8, 4), wants_all=True))


def test_what_does_not_fit_is_not_taken(model: MicroLM) -> None:
    step = Case(model, "eager", n_slots=9).step
    pages = list(range(40))
    assert step.takes(Batch.of(([1] * 9, 0, pages)))
    assert not step.takes(Batch.of(([1] * 10, 0, pages)))
    assert not step.takes(Batch.of(([1], 48 * PAGE_TOKENS, list(range(49)))))
    one = Batch.of(([1], 0, pages))
    adapted = Batch(
        one.ids_T, one.positions_T, one.begins_S1, one.pages_SP, one.wanted_R,
        torch.tensor([0], dtype=torch.int32),
    )  # fmt: skip
    assert not step.takes(adapted)


@pytest.mark.parametrize("how", ["eager", "repeated"])
def test_an_invariant_step_takes_all_in_pieces(model: MicroLM, how: str) -> None:
    """A prompt longer than a step beside streams; widths change from piece to piece."""
    case = Case(model, how, n_slots=3, batch=True)
    free = sorted(set(range(N_PAGES)) - {page for pages in case.pages for page in pages})
    prompt = (case.texts[0][:70], 0, free[:5])
    case.compare(Batch.of(case.part(3), prompt, case.part(10), case.part(5, 9), wants_all=True))
    case.compare(Batch.of(case.part(0), case.part(8)))


def test_rows_with_and_without_adapters(model: MicroLM) -> None:
    made = MicroLM(CONFIG)
    made.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(3)

    def low_rank(n_inputs: int, n_outputs: int) -> LowRank:
        return LowRank(torch.randn(3, n_inputs, generator=generator) / 4,
                       torch.randn(n_outputs, 3, generator=generator) / 4)  # fmt: skip

    for number in (0, 2):
        made.set_adapter(
            number,
            Adapter({(0, "attention.q"): low_rank(32, 32), (1, "mlp.down"): low_rank(48, 32)}),
        )
    case = Case(made.eval(), "eager", batch=True)
    plain = Batch.of(case.part(2), case.part(3, 5), case.part(1), case.part(6, 2))
    batch = Batch(
        plain.ids_T, plain.positions_T, plain.begins_S1, plain.pages_SP, plain.wanted_R,
        torch.tensor([2, -1, 0, 2], dtype=torch.int32),
    )  # fmt: skip
    without = case.step.run(plain)
    case.compare(batch)
    found = case.step.run(batch)
    assert (found[1] == without[1]).all(), "a row without one has its very bits"
    assert not torch.isclose(found[[0, 2, 3]], without[[0, 2, 3]]).all(dim=1).any()


def test_a_broken_row_spoils_nobody(model: MicroLM) -> None:
    """Padding and the spare page may hold what is no number."""
    case = Case(model, "eager")
    for layer in (case.caches[1].k_LPXKH, case.caches[1].v_LPXKH):
        layer[:, SPARE] = float("nan")
    case.compare(Batch.of(case.part(3), case.part(4), case.part(0)))
