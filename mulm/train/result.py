"""How a run of the training loop ended. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What the loop returns on each worker.

    `model_id` is the stored model: worker 0's, of the island that leads; else it is empty.
    `validation` is the number that the objective is judged by, and `judged_by` its name; it is NaN
    on an island that does not lead. `tokens_per_s` is the mean over the steps since this process
    began, without the time of validation and checkpoints; None where the last step was done before.
    """

    steps: int
    loss: float
    validation: float
    judged_by: str
    tokens_per_s: float | None
    parameters: int
    model_id: str
