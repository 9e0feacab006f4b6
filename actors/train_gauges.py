"""A training run's newest numbers as Ray metrics, for the dashboard and Prometheus.

Made by worker 0 of a training run. Prometheus finds them under Ray's prefix, as
`ray_mulm_train_loss{run="run_...", name="demo"}`. Invariant: names and tags are frozen in a test,
since people's dashboards ask for them; numbers without a gauge are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.util.metrics import Gauge

GAUGES: Mapping[str, tuple[str, str]] = {
    "step": ("mulm_train_step", "Optimizer steps that are done."),
    "loss": ("mulm_train_loss", "Loss of the newest reported step, in nats per learned token."),
    "lr": ("mulm_train_lr", "Learning rate of the matrices inside blocks."),
    "grad_norm": ("mulm_train_grad_norm", "Norm of the mean gradient."),
    "tokens_per_s": ("mulm_train_tokens_per_s", "Tokens trained on in a second, padding included."),
    "mfu": ("mulm_train_mfu", "Share of the devices' peak that the model's arithmetic is."),
    "memory_bytes": (
        "mulm_train_memory_bytes", "Peak of worker 0's tensors on a GPU, its process on a CPU.",
    ),
    "eta_s": ("mulm_train_eta_s", "Seconds until the last step, at the newest speed."),
    "validation_bits_per_byte": (
        "mulm_train_validation_bits_per_byte", "Bits per byte of the held-out text.",
    ),
}  # fmt: skip
"""Name and description, by the name of the number in a "metric" event."""


class TrainGauges:
    """The gauges of one run.

    Args:
        run_id: The tag `run`.
        name: The tag `name`: what the model will be called.
        make: Makes a gauge.
    """

    def __init__(self, run_id: str, name: str, make: Callable[..., Any] = Gauge) -> None:
        self._tags = {"run": run_id, "name": name}
        self._gauges = {
            number: make(gauge, description=description, tag_keys=tuple(self._tags))
            for number, (gauge, description) in GAUGES.items()
        }

    def tell(self, numbers: Mapping[str, Any]) -> None:
        """Set the gauges of those numbers that have one."""
        for number, gauge in self._gauges.items():
            if number in numbers:
                gauge.set(float(numbers[number]), tags=self._tags)
