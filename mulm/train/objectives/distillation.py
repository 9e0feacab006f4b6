"""Distillation: a µLM learns what another one predicts, token by token.

Chosen where the config names a teacher. Rows, validation and what is stored are those of
pretraining, so a distilled model is judged like any other. Invariants: see `base`; the teacher is
read only. Shape letters: B rows, T tokens, D d_model of the student, E of the teacher.
"""

from __future__ import annotations

import torch

from mulm.data.loader import IGNORED_TARGET
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model
from mulm.train.context import TrainContext
from mulm.train.distill_loss import sum_distillation
from mulm.train.objectives.base import SummedLoss
from mulm.train.objectives.pretraining import Batch, Pretraining
from mulm.train.settled import SettledConfig


class Distillation(Pretraining):
    """`Objective` of a MicroLM on the predictions of `context.models["teacher"]`.

    Raises:
        CorruptError: a file of the teacher does not match its checksum.
    """

    def __init__(self, config: SettledConfig, context: TrainContext) -> None:
        super().__init__(config, context)
        self._teacher = load_model(context.store, context.models["teacher"], context.device)

    def loss(self, model: MicroLM, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """The divergence of the student from the teacher, in nats."""
        x_BT, y_BT = batch
        with torch.no_grad():
            teacher_BTE = self._read(self._teacher, x_BT, dtype)
        nats = sum_distillation(
            self._read(model, x_BT, dtype).flatten(0, 1),
            model.output_weight_VD,
            teacher_BTE.flatten(0, 1),
            self._teacher.output_weight_VD,
            y_BT.flatten(),
            dtype=dtype,
        )
        return SummedLoss(nats, int((y_BT != IGNORED_TARGET).sum()))
