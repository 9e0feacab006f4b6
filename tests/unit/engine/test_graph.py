"""Engines whose steps are recorded and repeated: the same answers, or no recording at all."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mulm.engine import graph_cuda
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeModel
from mulm.engine.graph_cuda import CudaRecorder, recorder_for
from mulm.engine.graph_tape import TapeRecorder
from mulm.engine.prompt_lookup import PromptLookup
from mulm.engine.speculation import Speculation
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.batch import Rows
from mulm.model.config import MicroLMConfig
from mulm.model.lora import adapt, adapter_of
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.testing import tiny_model

CONFIG = MicroLMConfig(
    vocab_size=97, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48,
    max_seq_len=400,
)  # fmt: skip


def loud(seed: int = 0, kind: type[MicroLM] = MicroLM) -> MicroLM:
    """Weights scaled up, so that the next token depends on the text and not on rounding."""
    made = tiny_model(seed, CONFIG)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    model = kind(CONFIG)
    model.load_state_dict(made.state_dict())
    return model.eval()


def request(number: int, max_tokens: int = 20, **changes: Any) -> GenerateRequest:
    prompt = tuple((number * 31 + i * i) % CONFIG.vocab_size for i in range(3 + 45 * number))
    params = SamplingParams(max_tokens=max_tokens, temperature=number % 2, seed=number)
    return replace(GenerateRequest(f"r{number}", prompt, params), **changes)


REQUESTS = [request(n) for n in range(8)]
"""Prompts of 3 to 318 tokens: both widths, and streams that go from one to the other."""


def engine(model: Any = None, recorder: Any = None, **settings: Any) -> Engine:
    return Engine(model or loud(), recorder=recorder, clock=lambda: 0.0, seed=0, **settings)


PLAIN = engine(n_slots=5).generate(REQUESTS)


@pytest.mark.parametrize("n_slots", [1, 5, 9])
@pytest.mark.parametrize("prefill_tokens", [4, 256])
def test_answers_are_those_of_plain_steps(n_slots: int, prefill_tokens: int) -> None:
    tape = TapeRecorder()
    under_test = engine(recorder=tape, n_slots=n_slots, prefill_tokens=prefill_tokens)
    n_widths = 2
    assert under_test.graphs is not None
    assert under_test.graphs.n_graphs == n_widths * {1: 4, 5: 4, 9: 5}[n_slots]
    assert under_test.graphs.n_bytes > 0
    n_tried = tape.n_repeated
    assert under_test.generate(REQUESTS) == PLAIN
    assert tape.n_repeated > n_tried + 15
    under_test.check_integrity()


def test_answers_that_lost_their_pages_are_the_same() -> None:
    tape = TapeRecorder()
    under_test = engine(recorder=tape, n_slots=8, n_pages=28)
    assert under_test.generate(REQUESTS) == PLAIN
    assert under_test.stats().n_preemptions > 0
    under_test.check_integrity()


def test_guesses_are_rows() -> None:
    tape = TapeRecorder()
    speculation = Speculation(PromptLookup(), 3)
    repeating = replace(request(0, 40), prompt_ids=(5, 6, 7, 8) * 6)
    plain = engine(n_slots=6).generate([repeating])
    under_test = engine(recorder=tape, n_slots=6, speculation=speculation)
    assert under_test.generate([repeating]) == plain
    stats = under_test.stats()
    assert stats.proposed_tokens > 0
    assert tape.n_repeated > 8 + 10


def test_prompts_that_are_looked_at() -> None:
    """Embeddings and log-probabilities of prompts that fit a step."""
    asked = [
        request(0, 0, is_embedding=True, sampling=SamplingParams(max_tokens=0)),
        request(1, sampling=SamplingParams(max_tokens=3, temperature=0, prompt_logprobs=2)),
    ]
    plain = engine(n_slots=64).generate(asked)
    found = engine(recorder=TapeRecorder(), n_slots=64).generate(asked)
    assert found["r0"].embedding == pytest.approx(plain["r0"].embedding, rel=1e-4, abs=1e-5)
    assert found["r1"].token_ids == plain["r1"].token_ids
    assert len(found["r1"].prompt_logprobs) == len(asked[1].prompt_ids)
    for mine, theirs in zip(
        found["r1"].prompt_logprobs[1:], plain["r1"].prompt_logprobs[1:], strict=True
    ):
        assert mine is not None
        assert theirs is not None
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_rows_with_adapters_run_eagerly_beside_graphs() -> None:
    generator = torch.Generator().manual_seed(1)
    adapted = adapt(loud(), rank=3, scale=2, matrices=["q", "down"], generator=generator)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.data.normal_(0, 0.5, generator=generator)
    asked = [replace(REQUESTS[n], adapter="one" if n % 2 else None) for n in range(4)]
    engines = [engine(n_slots=4), engine(recorder=TapeRecorder(), n_slots=4)]
    for each in engines:
        each.set_adapter("one", adapter_of(adapted))
    found = [each.generate(asked) for each in engines]
    assert found[0] == found[1]
    assert found[0]["r1"] != PLAIN["r1"]
    assert found[0]["r2"] == PLAIN["r2"]


def test_other_weights_are_recorded_anew() -> None:
    """What runs keeps its tokens; nothing that knows the old weights is repeated."""
    tape, other = TapeRecorder(), loud(7)
    found: dict[str, tuple[int, ...]] = {}
    for each in (engine(n_slots=4), engine(recorder=tape, n_slots=4)):
        for one in REQUESTS[:4]:
            each.add(one)
        tokens: dict[str, tuple[int, ...]] = {one.request_id: () for one in REQUESTS[:4]}
        for step in range(200):
            if step == 9:
                each.swap(other)
            for chunk in each.step():
                tokens[chunk.request_id] += chunk.token_ids
        assert not each.n_unfinished
        each.check_integrity()
        assert not found or tokens == found
        found = tokens
        assert each.generate([request(6)]) == engine(other, n_slots=4).generate([request(6)])
    assert found["r0"][:5] == PLAIN["r0"].token_ids[:5]
    assert found["r0"] != PLAIN["r0"].token_ids


def test_a_model_without_rows_takes_over() -> None:
    """As the CPU kernels do from plain PyTorch: nothing of the first is asked any more."""
    tape = TapeRecorder()
    under_test = engine(recorder=tape, n_slots=4)
    other = loud(7)
    without_rows = SimpleNamespace(
        config=other.config, is_batch_invariant=False, make_cache=other.make_cache,
        extend=other.extend, logits=other.logits, set_adapter=other.set_adapter,
    )  # fmt: skip
    under_test.swap(without_rows)  # type: ignore[arg-type]
    assert under_test.graphs is None
    assert tape.n_bytes == 0
    assert under_test.generate([request(6)]) == engine(other, n_slots=4).generate([request(6)])


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_keys_and_values_in_bytes(batch_invariant: bool) -> None:
    model = loud()
    model.kv_dtype = "int8"
    settings: dict[str, Any] = {"n_slots": 5, "batch_invariant": batch_invariant}
    plain = engine(model, **settings).generate(REQUESTS[:6])
    under_test = engine(model, TapeRecorder(), **settings)
    assert under_test.graphs is not None
    assert not under_test.graphs.problem
    assert under_test.generate(REQUESTS[:6]) == plain


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantised_weights(bits: Any) -> None:
    model = QuantizedMicroLM.of(loud(), Quantization(linear=bits, embedding=bits))
    tape = TapeRecorder()
    under_test = engine(model, tape, n_slots=3)
    assert under_test.graphs is not None
    assert not under_test.graphs.problem
    plain = engine(model, n_slots=3).generate(REQUESTS[:4])
    assert under_test.generate(REQUESTS[:4]) == plain


class Liar(TapeRecorder):
    """Repeats nothing."""

    def record(self, act: Callable[[], None]) -> Callable[[], None]:
        super().record(act)
        return lambda: None


class Full(TapeRecorder):
    """Has memory for two."""

    n_recorded = 0

    def record(self, act: Callable[[], None]) -> Callable[[], None]:
        self.n_recorded += 1
        if self.n_recorded > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 MiB")
        return super().record(act)


class Asking(MicroLM):
    """Asks the device what a buffer holds."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        assert int(rows.positions_B.max()) >= 0
        return super().read_rows(rows, cache)


class Peeking(MicroLM):
    """Has the host decide by what a buffer holds."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        table_BP = torch.tensor(rows.pages_BP.numpy().copy())
        return super().read_rows(replace(rows, pages_BP=table_BP), cache)


class Telling(MicroLM):
    """Has the host read a buffer."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        assert max(rows.positions_B.tolist()) >= 0
        return super().read_rows(rows, cache)


class Selecting(MicroLM):
    """Takes as many rows as a mask says."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        assert len(rows.ids_B[rows.positions_B >= 0]) == len(rows.ids_B)
        return super().read_rows(rows, cache)


class Bringing(MicroLM):
    """Sends what the host holds."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        return super().read_rows(rows, cache) + torch.tensor([0.0])


class Counting(MicroLM):
    """Has the host do something else each time."""

    n_reads = 0

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        self.n_reads += 1
        return super().read_rows(rows, cache) * self.n_reads


class Broken(MicroLM):
    """What it says is no number."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        return super().read_rows(rows, cache) * float("nan")


class Tight(MicroLM):
    """There is no memory for steps of fixed shape."""

    def read_rows(self, rows: Rows, cache: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(("kind", "recorder", "reason"), [
    (MicroLM, Liar, "GraphDiffersError: a repeated step of 8 rows and 32 pages is off by"),
    (MicroLM, Full, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB"),
    (Asking, TapeRecorder, "NotRecordableError: a graph cannot hold aten::item"),
    (Peeking, TapeRecorder, "NotRecordableError: a graph cannot hold Tensor.numpy"),
    (Selecting, TapeRecorder, "NotRecordableError: a graph cannot hold aten::index"),
    (Bringing, TapeRecorder, "NotRecordableError: a graph cannot hold aten::lift_fresh"),
    (Telling, TapeRecorder, "NotRecordableError: a graph cannot hold Tensor.tolist"),
    (Counting, TapeRecorder, "GraphDiffersError: a repeated step of 8 rows and 32 pages is off"),
    (Broken, TapeRecorder, "GraphDiffersError: a repeated step of 8 rows and 32 pages is off by"),
    (Tight, TapeRecorder, "OutOfMemoryError: CUDA out of memory."),
])  # fmt: skip
def test_what_is_wrong_is_found_before_any_request(
    kind: type[MicroLM], recorder: type[TapeRecorder], reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.WARNING)
    tape = recorder()
    under_test = engine(loud(kind=kind), tape, n_slots=4)
    assert under_test.graphs is not None
    assert under_test.graphs.n_graphs == 0
    assert under_test.graphs.problem.startswith(reason)
    assert under_test.graphs.problem in caplog.text
    assert tape.n_bytes == 0
    n_tried = tape.n_repeated
    assert under_test.generate(REQUESTS) == PLAIN
    assert tape.n_repeated == n_tried


def test_a_model_without_rows_is_not_recorded() -> None:
    tape = TapeRecorder()
    under_test = engine(FakeModel(), tape, n_slots=2)
    assert under_test.graphs is None
    one = GenerateRequest("a", (1, 2), SamplingParams(max_tokens=3, seed=0))
    assert under_test.generate([one]) == engine(FakeModel(), n_slots=2).generate([one])
    assert recorder_for(FakeModel()) is None
    assert recorder_for(loud()) is None, "a CPU has no CUDA graphs"


class FakeStream:
    """Waits for another."""

    def __init__(self, calls: list[str], name: str) -> None:
        self.calls, self.name = calls, name

    def wait_stream(self, other: FakeStream) -> None:
        self.calls.append(f"{self.name} waits for {other.name}")


class FakeCuda:
    """The calls to torch.cuda that a recorder makes; they are those of this version of torch."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.main, self.side = FakeStream(self.calls, "main"), FakeStream(self.calls, "side")
        self.stream_now = self.main
        self.free_bytes, self.n_pools, self.fails = 1000, 0, False
        self.real_graph = torch.cuda.graph
        self.OutOfMemoryError = torch.cuda.OutOfMemoryError

    def Stream(self, _device: Any) -> FakeStream:
        return self.side

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(
            replay=lambda: self.calls.append("replay"), reset=lambda: self.calls.append("reset")
        )

    def graph_pool_handle(self) -> int:
        self.n_pools += 1
        return self.n_pools

    def mem_get_info(self) -> tuple[int, int]:
        return self.free_bytes, 2000

    def empty_cache(self) -> None: ...

    def synchronize(self, _device: Any) -> None:
        self.calls.append("synchronize")

    def device(self, _device: Any) -> Any:
        return torch.inference_mode()

    def current_stream(self) -> FakeStream:
        return self.stream_now

    def set_stream(self, stream: FakeStream) -> None:
        self.stream_now = stream

    def stream(self, stream: FakeStream) -> Any:
        fake = self

        class On:
            def __enter__(self) -> None:
                self.before, fake.stream_now = fake.stream_now, stream

            def __exit__(self, *_: object) -> None:
                fake.stream_now = self.before

        return On()

    def graph(self, *args: Any, **options: Any) -> Any:
        bound = inspect.signature(self.real_graph).bind(*args, **options).arguments
        fake = self

        class Capture:
            def __enter__(self) -> None:
                mode = bound["capture_error_mode"]
                fake.calls.append(f"capture in pool {bound['pool']}, {mode}")
                fake.stream_now = bound["stream"]

            def __exit__(self, *error: object) -> None:
                if fake.fails:
                    raise RuntimeError("capture was invalidated")
                fake.stream_now, fake.free_bytes = fake.main, fake.free_bytes - 100

        return Capture()


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed to see the order of calls; what they do is for a GPU to show."""
    cuda = FakeCuda()
    monkeypatch.setattr(graph_cuda.torch, "cuda", cuda)
    recorder = CudaRecorder(torch.device("cuda", 0))
    assert recorder.n_bytes == 0
    ran: list[str] = []
    first = recorder.record(lambda: ran.append(cuda.stream_now.name))
    assert ran == ["side"] * 3, "twice to warm up, once to be captured"
    assert cuda.calls == [
        "side waits for main", "main waits for side", "capture in pool 1, thread_local",
    ]  # fmt: skip
    recorder.record(lambda: None)
    assert cuda.calls[-1] == "capture in pool 1, thread_local"
    assert recorder.n_bytes == 200
    first()
    assert cuda.calls[-1] == "replay"
    recorder.forget()
    assert cuda.calls[-3:] == ["synchronize", "reset", "reset"]
    assert recorder.n_bytes == 0
    recorder.record(lambda: None)
    assert cuda.calls[-1] == "capture in pool 2, thread_local"
    cuda.fails = True
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder.record(lambda: None)
    assert cuda.stream_now is cuda.main, "eager steps go on where they ran"
