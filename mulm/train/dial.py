"""The size dial of training: what a config leaves `auto`, by the size of model and dataset.

Called by `mulm.train.settling`. Each rule says why. Invariants: pure arithmetic on the config, the
model's shape and the dataset's counts, rounded to two digits, so a resume and every worker choose
alike; nothing depends on devices or on how many workers there are. Whoever changes a rule raises
`TRAIN_VERSION`. Needs no torch.
`docs/training.md` tells where each rule was measured and where it is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Stage = Literal["pretraining", "tuning", "preference"]
"""Fresh weights; weights of a model that goes on with other text; pairs of answers."""

TOKENS_PER_PARAMETER = 20
"""Hoffmann et al., 2022, "Chinchilla"."""
PASSES: Mapping[Stage, int] = {"pretraining": 4, "tuning": 3, "preference": 1}
"""Up to four readings teach nearly as much as new text would (Muennighoff et al., 2023)."""
SMALL_PARAMETERS, SMALL_SEQ_LEN, LONGEST_SEQ_LEN = 10_000_000, 256, 2048
MATRIX_LR = 0.02
EMBEDDING_LR_TIMES_WIDTH, HIGHEST_EMBEDDING_LR = 3.84, 0.02
RATE_SHARE: Mapping[Stage, float] = {"pretraining": 1.0, "tuning": 0.1, "preference": 0.01}
"""Of the rates of pretraining: there is something to keep."""
LONG_RUN, HIGHEST_WEIGHT_DECAY = 10.0, 0.1
"""Tokens for each parameter from which on weights decay; and the most that they do."""
MEMORY_STEPS, LEAST_WARMUP = 20, 0.01
"""Momentum and squares are averages over some 20 steps: 1 / (1 - 0.95)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What the rules go by."""

    n_parameters: int
    d_model: int
    max_seq_len: int
    train_tokens: int
    n_pairs: int
    """Documents to train on; they count where they are pairs."""
    stage: Stage
    is_muon: bool
    packed_seq_len: int | None = None
    """Of a dataset whose rows have a length of their own."""

    @property
    def row_share(self) -> int:
        """Texts of `seq_len` tokens in a row: a pair has two."""
        return 2 if self.stage == "preference" else 1

    @property
    def planned_tokens(self) -> int:
        """The tokens worth training on, padding left out."""
        enough = TOKENS_PER_PARAMETER * self.n_parameters
        return max(1, min(enough, PASSES[self.stage] * self.train_tokens))


class Choice(NamedTuple):
    """A value, and why."""

    value: float
    reason: str


Known = Mapping[str, float]
"""Values by dotted key: those that were given, and those that rules above have chosen."""


def choose(scale: Scale, given: Known) -> dict[str, Choice]:
    """A choice for each key of `RULES` that is not given, in their order."""
    known, chosen = dict(given), {}
    for key, rule in RULES.items():
        if key not in known:
            chosen[key] = rule(scale, known)
            known[key] = chosen[key].value
    return chosen


def _seq_len(scale: Scale, _known: Known) -> Choice:
    if scale.packed_seq_len:
        return Choice(scale.packed_seq_len, "the dataset is packed in such rows")
    window = scale.max_seq_len
    if scale.n_parameters < SMALL_PARAMETERS and window > SMALL_SEQ_LEN:
        return Choice(SMALL_SEQ_LEN, "so small a model looks no further back with profit")
    if window > LONGEST_SEQ_LEN:
        return Choice(LONGEST_SEQ_LEN, f"pretraining needs no more of the window of {window}")
    return Choice(window, "the model's window")


def _batch_tokens(scale: Scale, known: Known) -> Choice:
    """0.58 D^0.571 tokens for D tokens in all (Li et al., 2025, "Predictable Scale")."""
    row = int(known["seq_len"]) * scale.row_share
    best = 0.58 * scale.planned_tokens**0.571
    rows = 1 << int(math.log2(max(1.0, best / row)))
    return Choice(
        rows * row, f"{rows} rows, by 0.58 D^0.571 of D = {scale.planned_tokens:,} tokens"
    )


def _steps(scale: Scale, known: Known) -> Choice:
    if scale.stage == "preference":
        rows = int(known["batch_tokens"]) // (int(known["seq_len"]) * scale.row_share)
        return Choice(max(1, math.ceil(scale.n_pairs / rows)), f"{scale.n_pairs:,} pairs once")
    steps = max(1, round(scale.planned_tokens / known["batch_tokens"]))
    passes = PASSES[scale.stage]
    if scale.planned_tokens < passes * scale.train_tokens:
        return Choice(steps, f"{TOKENS_PER_PARAMETER} tokens for each parameter")
    return Choice(steps, f"{passes} readings of {scale.train_tokens:,} tokens")


def _matrix_lr(scale: Scale, _known: Known) -> Choice:
    """The same for every width: an orthogonal update is scaled by its matrix's shape."""
    share = RATE_SHARE[scale.stage]
    return Choice(_rounded(MATRIX_LR * share), "Muon's rate for every width" + _told(scale))


def _embedding_lr(scale: Scale, known: Known) -> Choice:
    share = RATE_SHARE[scale.stage]
    if scale.is_muon:
        rate = min(HIGHEST_EMBEDDING_LR, EMBEDDING_LR_TIMES_WIDTH / scale.d_model)
        return Choice(_rounded(rate * share), f"falls with the width {scale.d_model}{_told(scale)}")
    n_tokens = known["steps"] * known["batch_tokens"]
    rate = 1.79 * scale.n_parameters**-0.713 * n_tokens**0.307
    law = f"1.79 N^-0.713 D^0.307 of {scale.n_parameters:,} parameters"
    return Choice(_rounded(min(rate, 0.01) * share), law + _told(scale))


def _weight_decay(scale: Scale, known: Known) -> Choice:
    """None in short runs; in long ones weights remember 1.084 (D / N)^-0.527 of the steps.

    They remember 1 / (rate * decay) steps (Bergsma et al., 2025, "Power Lines").
    """
    if scale.stage != "pretraining":
        return Choice(0.0, "there is something to keep")
    rate = known["optimizer.matrix_lr" if scale.is_muon else "optimizer.embedding_lr"]
    per_parameter = known["steps"] * known["batch_tokens"] / scale.n_parameters
    told = f"{per_parameter:.2g} tokens for each parameter"
    if per_parameter < LONG_RUN:
        return Choice(0.0, f"{told} are too few for it to pay")
    share = 1.084 * per_parameter**-0.527
    decay = min(HIGHEST_WEIGHT_DECAY, 1 / (share * rate * known["steps"]))
    return Choice(_rounded(decay), told)


def _warmup(_scale: Scale, known: Known) -> Choice:
    """Long enough for the optimizer's averages to fill."""
    rest = 1.0 - known["schedule.decay"]
    share = _rounded(min(rest, 0.1, max(LEAST_WARMUP, MEMORY_STEPS / known["steps"])))
    share = share if share + known["schedule.decay"] <= 1 else rest  # rounded up it is too long
    told = f"{MEMORY_STEPS} steps, which the averages remember, but a tenth of the run at most"
    return Choice(share, told)


RULES: Mapping[str, Callable[[Scale, Known], Choice]] = {
    "seq_len": _seq_len,
    "batch_tokens": _batch_tokens,
    "steps": _steps,
    "optimizer.matrix_lr": _matrix_lr,
    "optimizer.embedding_lr": _embedding_lr,
    "optimizer.weight_decay": _weight_decay,
    "schedule.warmup": _warmup,
}
"""A rule for each key that may be `auto`; each may read the values of those above it."""


def _told(scale: Scale) -> str:
    share = RATE_SHARE[scale.stage]
    return "" if share == 1 else f", {share:g} of it to keep what the model knows"


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
