"""How long a run takes and what it costs, told before it starts.

Called by `mulm train --dry-run`. Invariant: a number comes with the way it was found; what nobody
measured or said, such as the power of a CPU, is told as not known.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mulm.errors import ConfigError
from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.fp8 import in_fp8
from mulm.model.microlm import MicroLM
from mulm.train.compiling import choose_compiled
from mulm.train.device import DTYPES
from mulm.train.flops import flops_per_token
from mulm.train.loss import sum_cross_entropy
from mulm.train.optim import Optimizer
from mulm.train.settled import SettledConfig

MEASURED_PARAMETERS = 30_000_000
"""A larger model is measured by one block."""
MICRO_BATCH_S = 1.0
"""Rows are added to the measured micro-batch until it takes about so long."""
N_REPEATS = 3
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Work:
    """What a run computes on its device or devices."""

    config: SettledConfig
    shape: MicroLMConfig
    device: str
    precision: str
    rows: int
    """Of a micro-batch."""

    @property
    def rows_in_turn(self) -> int:
        """Rows of a step that one device takes; workers on a CPU share its cores."""
        n_devices = self.config.workers if self.device == "cuda" else 1
        return -(-self.config.n_rows // n_devices)


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured, for the whole shape."""

    row_s: float
    """Forward and backward of a row."""
    update_s: float
    """Of the optimizer, once a step."""
    found_by: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time, energy and cost of a run; None is not known, and the reasons say why."""

    seconds: float | None
    tokens_per_s: float | None
    time_reason: str
    kwh: float | None
    energy_reason: str
    cost: float | None
    """In the currency of the price; None without one."""


def estimate(
    work: Work,
    *,
    is_measured: bool = True,
    watts: float | None = None,
    price_per_kwh: float | None = None,
    measure: Callable[[Work], Speed] | None = None,
) -> Estimate:
    """The whole run from its first step, without validation, checkpoints and lost time.

    Args:
        work: The run.
        is_measured: Run some rows here to learn the speed, for seconds; else the time is not known.
        watts: Drawn by each device or machine, where the user knows it.
        price_per_kwh: In any currency.
        measure: Takes the place of `measured_speed` in tests.

    Raises:
        ConfigError: watts or price are no sensible number.
    """
    for name, value in (("--watts", watts), ("--price-per-kwh", price_per_kwh)):
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{name} {value} is no sensible number", hint="give 0 or more")
    seconds, reason = _seconds(work, is_measured, measure or measured_speed)
    tokens = work.config.steps * work.config.batch_tokens
    kwh, energy_reason = _energy(work, seconds, watts)
    return Estimate(
        seconds=seconds,
        tokens_per_s=tokens / seconds if seconds else None,
        time_reason=reason,
        kwh=kwh,
        energy_reason=energy_reason,
        cost=None if kwh is None or price_per_kwh is None else kwh * price_per_kwh,
    )


def describe_estimate(told: Estimate) -> Iterator[str]:
    """The estimate as lines for a terminal."""
    if told.seconds is None:
        yield f"time: not known: {told.time_reason}"
    else:
        yield (
            f"time: about {_duration(told.seconds)} at {told.tokens_per_s:,.0f} tokens/s"
            f" ({told.time_reason})"
        )
    if told.kwh is None:
        yield f"cost: not known: {told.energy_reason}"
        return
    price = "; --price-per-kwh tells the cost" if told.cost is None else f", {told.cost:.2f}"
    yield f"cost: {told.kwh:.3g} kWh{price} ({told.energy_reason})"


def measured_speed(work: Work, now_s: Callable[[], float] = time.perf_counter) -> Speed:
    """Run the model, or one block where it is large, on random tokens; the rest by its operations.

    One block comes first, and what it takes decides what else there is time for.
    """
    speed, row_s = _speed(work, work.shape.model_copy(update={"n_layers": 1}), now_s)
    is_quick = row_s < MICRO_BATCH_S and speed.row_s < MICRO_BATCH_S
    is_quick = is_quick and work.shape.n_parameters <= MEASURED_PARAMETERS
    return _speed(work, work.shape, now_s)[0] if is_quick else speed


def _speed(work: Work, part: MicroLMConfig, now_s: Callable[[], float]) -> tuple[Speed, float]:
    """As measured on a part of the shape, and what its first row took."""
    seq_len = work.config.seq_len
    step, update = _make_step(work, part)
    first_s = row_s = _timed(lambda: step(1), work.device, now_s)  # with what happens only once
    rows = max(1, min(work.rows, work.rows_in_turn, int(MICRO_BATCH_S / max(row_s, 1e-6))))
    for _ in range(N_REPEATS if first_s < MICRO_BATCH_S else 0):
        row_s = min(row_s, _timed(lambda: step(rows), work.device, now_s) / rows)
    update_s = _timed(update, work.device, now_s)
    if update_s < MICRO_BATCH_S:
        update_s = min(update_s, _timed(update, work.device, now_s))
    scale = flops_per_token(work.shape, seq_len) / flops_per_token(part, seq_len)
    of_blocks = f"{part.n_layers} of {work.shape.n_layers} blocks, " if scale > 1 else ""
    return Speed(
        row_s=row_s * scale,
        update_s=update_s * work.shape.n_parameters / part.n_parameters,
        found_by=f"measured here: {of_blocks}{rows} x {seq_len} tokens",
    ), first_s


def device_watts(device: str) -> float | None:
    """The power limit of the first GPU, which it draws while it trains; None where none says."""
    if device != "cuda":
        return None
    try:
        told = subprocess.check_output(_NVIDIA_SMI, text=True, timeout=10)  # noqa: S603 constant
        return float(told.splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _seconds(
    work: Work, is_measured: bool, measure: Callable[[Work], Speed]
) -> tuple[float | None, str]:
    config = work.config
    if config.preference or config.teacher or config.lora:
        return None, "its first steps tell; only learning from text is measured beforehand"
    if not is_measured:
        return None, "nothing was measured; leave --no-measure away"
    speed = measure(work)
    step_s = work.rows_in_turn * speed.row_s + speed.update_s
    alike = ""
    if config.workers > 1:
        alike = (
            f"; {config.workers} GPUs like this one, without what they send each other"
            if work.device == "cuda"
            else f"; {config.workers} workers on the cores of this machine"
        )
    is_compiled, _ = choose_compiled(config, work.shape, work.device)
    faster = "; the run is compiled and takes less, which was not measured" if is_compiled else ""
    reason = f"{speed.found_by}; without validation and checkpoints{alike}{faster}"
    return config.steps * step_s, reason


def _energy(work: Work, seconds: float | None, watts: float | None) -> tuple[float | None, str]:
    each, reason = watts, "as --watts says"
    if each is None:
        each, reason = device_watts(work.device), "the GPU's power limit, without the machine"
    if each is None:
        return None, f"nobody here says what the {work.device} draws; --watts N does"
    if seconds is None:
        return None, "the time is not known"
    n_devices = work.config.workers if work.device == "cuda" else 1
    total = f"{each:.0f} W" if n_devices == 1 else f"{n_devices} x {each:.0f} W"
    return n_devices * each * seconds / 3.6e6, f"{total}, {reason}"


def _make_step(work: Work, part: MicroLMConfig) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Forward and backward of so many rows, and an update, both as training does them."""
    config, dtype = work.config, DTYPES[work.precision]
    generator = torch.Generator().manual_seed(0)
    model = MicroLM(part).init_weights(generator).to(work.device)
    if work.precision == "fp8":
        in_fp8(model)
    optimizer = Optimizer(model, config.optimizer, dtype)
    compute = Compute(dtype, config.attention, config.activation_checkpointing)

    def step(n_rows: int) -> None:
        size = (n_rows, config.seq_len + 1)
        ids_BT = torch.randint(part.vocab_size, size, generator=generator).to(work.device)
        hidden_ND = model(ids_BT[:, :-1], compute).flatten(0, 1)
        targets_N, weight_VD = ids_BT[:, 1:].flatten(), model.output_weight_VD
        loss = sum_cross_entropy(hidden_ND, weight_VD, targets_N, dtype, z_weight=config.z_loss)
        torch.autograd.backward(loss)

    return step, lambda: optimizer.step(1.0)


def _timed(act: Callable[[], None], device: str, now_s: Callable[[], float]) -> float:
    started_s = now_s()
    act()
    if device == "cuda":
        torch.cuda.synchronize()
    return now_s() - started_s


def _duration(seconds: float) -> str:
    for unit, size_s in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.1f} {unit}"
    return f"{seconds:.1f} seconds"
