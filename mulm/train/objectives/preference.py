"""Preference: a µLM learns which of two answers is better (DPO).

Chosen where the config asks for it. A row is a pair of conversations, each read by itself. The
model that training begins with is the reference; it is read only, and where adapters are trained it
is the adapted model without them. Invariants: see `base`.
Shape letters: B pairs, S its two sides (the better first), T tokens, D d_model, N = B S T.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mulm.data.loader import IGNORED_TARGET
from mulm.data.pairs import Answer, Pair, PairLoader
from mulm.errors import TrainingDivergedError
from mulm.model.lora import without_adapters
from mulm.model.microlm import MicroLM
from mulm.model.stored import load_model
from mulm.train.context import TrainContext
from mulm.train.objectives.base import SummedLoss
from mulm.train.objectives.microlm import OnMicroLM
from mulm.train.settled import SettledConfig
from mulm.train.stages_config import PreferenceConfig
from mulm.train.sync.base import Sync
from mulm.train.token_loss import token_log_probs

Batch = tuple[Tensor, Tensor]
"""x_BST and y_BST, filled up at the end; y is x one token later, or `IGNORED_TARGET`."""


class Preference(OnMicroLM):
    """`Objective` of a MicroLM on the preference pairs among the documents of `context.dataset`.

    Raises:
        CorruptError: a file does not match its checksum.
        DataError: no pair fits into `seq_len`.
    """

    judged_by = "preference_loss"
    higher_is_better = False

    def __init__(self, config: SettledConfig, context: TrainContext) -> None:
        super().__init__(config, context)
        assert config.preference is not None
        self._rules = config.preference
        store, dataset, longest = context.store, context.dataset, config.seq_len + 1
        self._training = PairLoader(store, dataset, max_tokens=longest, seed=config.seed)
        self._held_out = PairLoader(store, dataset, "validation", max_tokens=longest)
        self._reference = (
            None if config.lora else load_model(store, context.models["init_from"], context.device)
        )

    @property
    def manner(self) -> str:
        """How many pairs there are, too."""
        loaders = (self._training, self._held_out)
        return (
            f"{super().manner}, {len(self._training)} pairs, {len(self._held_out)} held out,"
            f" {sum(loader.n_too_long for loader in loaders)} too long for seq_len"
        )

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Batch]:
        """Pairs in the order that the seed gives, filled up to the longest of the step."""
        n_rows, n_at_once = self.config.n_rows, self._micro_batch.rows
        n_tokens = self._training.longest(step, n_rows) - 1
        pairs = self._training.batch(step, n_rows, start, stop)
        for first in range(0, len(pairs), n_at_once):
            yield self._batch(pairs[first : first + n_at_once], n_tokens)

    def loss(self, model: MicroLM, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """The loss of pairs, in nats, with the margin between their rewards."""
        with torch.no_grad():
            if self._reference is not None:
                reference_BS = self._log_probs(self._reference, batch, dtype)
            else:
                with without_adapters(model):
                    reference_BS = self._log_probs(model, batch, dtype)
        reward_BS = self._rules.beta * (self._log_probs(model, batch, dtype) - reference_BS)
        margin_B = reward_BS[:, 0] - reward_BS[:, 1]
        also = {"margin": margin_B.detach().sum(), "accuracy": (margin_B.detach() > 0).sum()}
        return SummedLoss(preference_loss(margin_B, self._rules).sum(), len(margin_B), also)

    @torch.no_grad()
    def validate(self, model: MicroLM, dtype: torch.dtype, sync: Sync) -> dict[str, float]:
        """Mean loss, margin and accuracy of the held-out pairs."""
        rank, world_size = self.context.rank, self.context.world_size
        sums = [0.0, 0.0, 0.0]
        rows = self._micro_batch.rows
        shares = self._held_out.iter_validation(self._shared_rows, rank, world_size)
        for pairs in (share[i : i + rows] for share in shares for i in range(0, len(share), rows)):
            part = self.loss(model, self._batch(pairs, max(p.longest for p in pairs) - 1), dtype)
            values = (part.total, part.also["margin"], part.also["accuracy"])
            sums = [total + float(value) for total, value in zip(sums, values, strict=True)]
        loss, margin, n_right = sync.sum_values(sums)
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                "the loss of the held-out pairs is not a finite number",
                hint="train with a lower optimizer.matrix_lr and optimizer.embedding_lr",
            )
        means = {self.judged_by: loss, "margin": margin, "accuracy": n_right}
        return {name: total / len(self._held_out) for name, total in means.items()}

    def _log_probs(self, model: MicroLM, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Log-probability of what is learned of each answer, (B, S)."""
        x_BST, y_BST = batch
        hidden_ND = self._read(model, x_BST.flatten(0, 1), dtype).flatten(0, 1)
        log_probs_N = token_log_probs(hidden_ND, model.output_weight_VD, y_BST.flatten(), dtype)
        sum_BS = log_probs_N.view(y_BST.shape).sum(dim=2)
        if not self._rules.length_normalised:
            return sum_BS
        return sum_BS / (y_BST != IGNORED_TARGET).sum(dim=2).clamp(min=1)

    def _batch(self, pairs: Sequence[Pair], n_tokens: int) -> Batch:
        rows = [_row(answer, n_tokens) for p in pairs for answer in (p.chosen, p.rejected)]
        tensor_2NT = torch.tensor(rows, dtype=torch.int64).view(len(pairs), 2, 2, n_tokens)
        x_BST, y_BST = tensor_2NT.to(self.context.device).unbind(dim=2)
        return x_BST, y_BST


def preference_loss(margin_B: Tensor, rules: PreferenceConfig) -> Tensor:
    """-log sigmoid of the margin between two rewards (Rafailov et al., 2023, equation 7).

    With label smoothing e the pair counts e times the other way round.
    """
    smoothing = rules.label_smoothing
    right_B, wrong_B = functional.logsigmoid(margin_B), functional.logsigmoid(-margin_B)
    return -(1 - smoothing) * right_B - smoothing * wrong_B


def _row(answer: Answer, n_tokens: int) -> list[list[int]]:
    """The x and y of a conversation: read all but the last token, learn what is to be said."""
    ids, learned = list(answer.ids), answer.learned
    targets = [i if own else IGNORED_TARGET for i, own in zip(ids, learned, strict=True)]
    n_missing = n_tokens - len(ids) + 1
    return [ids[:-1] + [0] * n_missing, targets[1:] + [IGNORED_TARGET] * n_missing]
