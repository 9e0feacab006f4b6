"""The plan of a step's memory is what a step really allocates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.lora import adapt
from mulm.model.microlm import MicroLM
from mulm.model.presets import preset
from mulm.testing import settled_optimizer
from mulm.train.loss import sum_cross_entropy
from mulm.train.memory import StepChoices, largest_rows, step_memory
from mulm.train.optim import Optimizer, learned_parameters
from mulm.train.optimizer_config import StateDtype
from mulm.train.optimizer_memory import states_bytes
from mulm.train.placement import Placement
from mulm.train.stages_config import LoraConfig
from mulm.train.token_loss import token_log_probs

LONG = MicroLMConfig(
    vocab_size=512, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, d_head=16, d_ff=192,
    max_seq_len=128,
)  # fmt: skip
WIDE = MicroLMConfig(
    vocab_size=2048, d_model=128, n_layers=2, n_heads=2, n_kv_heads=1, d_head=64, d_ff=384,
    max_seq_len=128, qk_norm=False,
)  # fmt: skip
ADAMW = settled_optimizer(kind="adamw")
LORA = LoraConfig(rank=8)
PLAIN = StepChoices(
    rows=6,
    seq_len=128,
    optimizer=settled_optimizer(),
    compute_bytes=4,
    kernel="plain",
    device="cpu",
)
CASES = {
    "plain": PLAIN,
    "bf16": replace(PLAIN, compute_bytes=2),
    "attention by torch": replace(PLAIN, kernel="sdpa"),
    "blocks again": replace(PLAIN, is_checkpointed=True),
    "blocks again, bf16, one micro-batch": replace(
        PLAIN, is_checkpointed=True, compute_bytes=2, n_micro_batches=1
    ),
    "one row": replace(PLAIN, rows=1, n_micro_batches=1),
    "adamw": replace(PLAIN, rows=1, optimizer=ADAMW),
    "adapters": replace(PLAIN, lora=LORA, optimizer=ADAMW),
    "adapters by muon": replace(PLAIN, rows=1, lora=LORA),
    "adapters, bf16": replace(PLAIN, compute_bytes=2, lora=LORA, optimizer=ADAMW),
    "adapters, blocks again": replace(PLAIN, is_checkpointed=True, lora=LORA, optimizer=ADAMW),
    "few adapters, one micro-batch": replace(
        PLAIN, lora=LoraConfig(rank=4, matrices=("q", "v")), optimizer=ADAMW, n_micro_batches=1
    ),
}


def measured_peak(
    shape: MicroLMConfig, choices: StepChoices, *, has_reference: bool = False
) -> int:
    """Live bytes at the highest moment of a real step, from every allocation of torch's.

    With a reference it is a step on preferences, in which a frozen model reads the rows first.
    """
    generator, lora = torch.Generator().manual_seed(0), choices.lora
    model = MicroLM(shape).init_weights(generator)
    if lora:
        adapt(model, rank=lora.rank, scale=lora.scale, matrices=lora.matrices, generator=generator)
    reference = MicroLM(shape).requires_grad_(False) if has_reference else None
    dtype = {2: torch.bfloat16, 4: torch.float32}[choices.compute_bytes]
    rank = 1 if choices.n_shards > 1 else 0
    placement = Placement(choices.n_shards, rank, is_offloaded=choices.is_offloaded)
    optimizer = Optimizer(model, choices.optimizer, dtype, placement)
    compute = Compute(dtype, choices.kernel, choices.is_checkpointed)
    ids_BT = torch.arange(choices.rows * (choices.seq_len + 1)).view(choices.rows, -1)
    ids_BT = ids_BT * 7919 % shape.vocab_size
    before = [*model.parameters(), *model.buffers(), *held(optimizer).values()]
    before += reference.parameters() if reference else []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(choices.n_micro_batches):
            loss = (
                pair_loss(model, reference, ids_BT, compute)
                if reference
                else text_loss(model, ids_BT, compute)
            )
            loss.backward()
            del loss
        for name, parameter in learned_parameters(model).items():
            if optimizer.owners.get(name, rank) != rank:
                parameter.grad = None  # another worker's
        norms_P = torch.zeros(len(learned_parameters(model)))
        optimizer.step(1.0, norms_P if optimizer.owners else None)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = sum(tensor.nbytes for tensor in before)
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def held(optimizer: Optimizer) -> dict[str, Tensor]:
    return {name: t for name, t in optimizer.tensors().items() if not t.is_meta}


def text_loss(model: MicroLM, ids_BT: Tensor, compute: Compute) -> Tensor:
    hidden_ND = model(ids_BT[:, :-1], compute).flatten(0, 1)
    weight_VD, targets_N = model.output_weight_VD, ids_BT[:, 1:].flatten()
    return sum_cross_entropy(hidden_ND, weight_VD, targets_N, compute.dtype or torch.float32)


def pair_loss(model: MicroLM, reference: MicroLM, ids_BT: Tensor, compute: Compute) -> Tensor:
    with torch.no_grad():
        reference_N = log_probs(reference, ids_BT, compute)
    return -functional.logsigmoid((log_probs(model, ids_BT, compute) - reference_N).sum())


def log_probs(model: MicroLM, ids_BT: Tensor, compute: Compute) -> Tensor:
    hidden_ND = model(ids_BT[:, :-1], compute).flatten(0, 1)
    weight_VD, targets_N = model.output_weight_VD, ids_BT[:, 1:].flatten()
    return token_log_probs(hidden_ND, weight_VD, targets_N, compute.dtype or torch.float32)


@pytest.mark.parametrize("shape", [LONG, WIDE], ids=["long", "wide"])
@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_within_5_percent(shape: MicroLMConfig, case: str) -> None:
    planned = step_memory(shape, CASES[case]).peak_bytes
    assert planned == pytest.approx(measured_peak(shape, CASES[case]), rel=0.05)


@pytest.mark.parametrize("shape", [LONG, WIDE], ids=["long", "wide"])
@pytest.mark.parametrize("case", ["plain", "bf16", "blocks again", "adamw"])
def test_a_step_on_preferences_is_within_5_percent(shape: MicroLMConfig, case: str) -> None:
    planned = step_memory(shape, CASES[case]).peak_bytes + 4 * shape.n_parameters
    measured = measured_peak(shape, CASES[case], has_reference=True)
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("shape", [LONG, WIDE], ids=["long", "wide"])
@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("state_dtype", ["fp32", "bf16", "int8"])
def test_states_elsewhere_are_within_5_percent(
    shape: MicroLMConfig, kind: str, state_dtype: StateDtype
) -> None:
    values = {"kind": kind, "state_dtype": state_dtype}
    one_row = replace(PLAIN, rows=1, optimizer=settled_optimizer(**values))
    shared, away = replace(one_row, n_shards=2), replace(one_row, is_offloaded=True)
    planned = step_memory(shape, shared).peak_bytes
    assert planned == pytest.approx(measured_peak(shape, shared), rel=0.05)
    plan = step_memory(shape, away)
    # Here the memory of the CPU is that of the device, too.
    in_all = plan.peak_bytes + plan.offloaded_bytes
    assert in_all == pytest.approx(measured_peak(shape, away), rel=0.05)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("state_dtype", ["bf16", "int8"])
def test_small_states_are_within_5_percent(kind: str, state_dtype: StateDtype) -> None:
    values = {"kind": kind, "state_dtype": state_dtype}
    choices = replace(PLAIN, rows=1, optimizer=settled_optimizer(**values))
    planned = step_memory(WIDE, choices).peak_bytes
    assert planned == pytest.approx(measured_peak(WIDE, choices), rel=0.05)
    states = Optimizer(MicroLM(WIDE), choices.optimizer, torch.float32).tensors()
    assert states_bytes(WIDE, choices.optimizer) == sum(t.nbytes for t in states.values())


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    shape, choices = preset("micro", 32768), StepChoices(rows=1, seq_len=1024)
    rows = largest_rows(shape, choices, 8e9)
    assert step_memory(shape, replace(choices, rows=rows)).peak_bytes <= 8e9
    assert step_memory(shape, replace(choices, rows=rows + 1)).peak_bytes > 8e9
    assert largest_rows(shape, choices, 1e8) == 0


def test_what_is_unsent_stays_beside_all_else() -> None:
    shape = preset("micro", 32768)
    plain = step_memory(shape, PLAIN)
    unsent = step_memory(shape, replace(PLAIN, keeps_unsent=True))
    for stage in ("forward_bytes", "backward_bytes", "update_bytes"):
        assert getattr(unsent, stage) - getattr(plain, stage) == 4 * shape.n_parameters
