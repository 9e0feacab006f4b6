"""The learning rate over a run: warm-up, stable, decay.

Called by the training loop for each step; a pure function, so a resume needs no state.
"""

from __future__ import annotations

from mulm.train.settled import SettledSchedule


def lr_scale(step: int, steps: int, schedule: SettledSchedule) -> float:
    """The factor on every learning rate at `step` (from 0) of `steps`.

    Rises linearly, stays at 1, falls linearly towards zero (Hu et al., 2024, "MiniCPM"); no
    step gets zero.
    """
    n_warmup = schedule.warmup * steps
    n_decay = schedule.decay * steps
    rising = (step + 1) / n_warmup if n_warmup >= 1 else 1.0
    falling = (steps - step) / n_decay if n_decay >= 1 else 1.0
    return min(1.0, rising, falling)
