"""How the paper trains its Transformer: the smoothed loss and the learning rate.

Called by objectives that train one. Section and equation numbers are those of Vaswani et al., 2017.
Shape letters: V vocabulary; any dimensions before it.
"""

from __future__ import annotations

from torch import Tensor

from mulm.data.loader import IGNORED_TARGET
from mulm.errors import ConfigError

PAPER_SMOOTHING = 0.1
PAPER_WARMUP_STEPS = 4000


def sum_smoothed_cross_entropy(
    logits_XV: Tensor, targets_X: Tensor, smoothing: float = PAPER_SMOOTHING
) -> Tensor:
    """Cross-entropy against smoothed targets, summed in nats; section 5.4.

    A share `smoothing` of each target is spread evenly over the whole vocabulary (Szegedy et al.,
    2016, section 7). `IGNORED_TARGET` counts nothing.

    Raises:
        ConfigError: `smoothing` is not from 0 to below 1.
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"label smoothing {smoothing} is no share", hint="use 0 to below 1")
    log_p_XV = logits_XV.float().log_softmax(dim=-1)
    is_counted_X = targets_X != IGNORED_TARGET
    target_X1 = targets_X.clamp(min=0)[..., None]
    # q(k) = (1 - eps) [k = target] + eps / V;  loss = - sum over k of q(k) log p(k)
    sharp_X = -log_p_XV.gather(-1, target_X1)[..., 0]
    even_X = -log_p_XV.mean(dim=-1)
    loss_X = (1 - smoothing) * sharp_X + smoothing * even_X
    return (loss_X * is_counted_X).sum()


def paper_learning_rate(step: int, d_model: int, warmup_steps: int = PAPER_WARMUP_STEPS) -> float:
    """Rises linearly, then falls with the square root of the step; equation 3, steps from 1.

    Raises:
        ConfigError: a number is not positive.
    """
    if min(step, d_model, warmup_steps) < 1:
        raise ConfigError(
            f"no learning rate at step {step} of width {d_model} and {warmup_steps} warm-up steps",
            hint="steps count from 1",
        )
    # lrate = d_model^-0.5 min(step_num^-0.5, step_num * warmup_steps^-1.5)
    return float(d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5))
