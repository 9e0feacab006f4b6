"""How likely a model finds texts after their contexts, many at once.

Called by `mulm.eval.scoring`. Questions are sorted by length and padded on the right into batches
of few widths; logits are computed where a target stands, a chunk at a time, so that those of a
batch are never all there. Invariant: the answers are those of each question alone, up to rounding.
Shape letters: B rows, T tokens, N targets of a batch, C of a chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mulm.errors import ConfigError, TrainingDivergedError
from mulm.eval.encoding import TokenQuestion
from mulm.eval.suites.base import Likelihood
from mulm.model.compute import Compute
from mulm.model.microlm import MicroLM
from mulm.model.quantized import QuantizedMicroLM
from mulm.train.memory import LOSS_CHUNK_TOKENS

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Of a batch, padding included: enough to keep the device busy, little against its memory."""

_NARROWEST = 16
_WIDTHS_PER_DOUBLING = 4


@dataclass(frozen=True, slots=True)
class _Line:
    """A question as the model reads it: what goes in, and how many of its outputs are targets."""

    number: int
    ids: tuple[int, ...]
    n_targets: int

    @property
    def width(self) -> int:
        """Tokens that go in; the last id is a target only."""
        return len(self.ids) - 1


class Scorer:
    """Answers questions of likelihood with one model.

    Args:
        model: On its device, in evaluation mode.
        dtype: The type of the matrix products; the softmax is always fp32.
        window: Tokens that the model reads at once; a longer question loses its beginning.
        batch_tokens: Of a batch; by default what suits the device.
    """

    def __init__(
        self,
        model: MicroLM,
        dtype: torch.dtype = torch.float32,
        window: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        longest = model.config.max_seq_len
        self.window = window or longest
        if self.window > longest:
            raise ConfigError(
                f"seq_len {self.window} is beyond the model's window", hint=f"it is {longest}"
            )
        self._model, self._dtype = model, dtype
        self._batch_tokens = batch_tokens or BATCH_TOKENS[model.device.type]
        self._weight_VD: Tensor | None = None
        if not isinstance(model, QuantizedMicroLM):
            self._weight_VD = model.output_weight_VD.to(dtype)

    def is_cut(self, question: TokenQuestion) -> bool:
        """Whether the question is too long for the window."""
        return len(question.context_ids) + len(question.target_ids) > self.window + 1

    @torch.inference_mode()
    def answer(
        self,
        questions: Sequence[TokenQuestion],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[Likelihood]:
        """The answers, in the order of the questions.

        Raises:
            TrainingDivergedError: the model gives no finite numbers.
        """
        answers: dict[int, Likelihood] = {}
        lines = [self._line(number, question) for number, question in enumerate(questions)]
        for batch in self._batches(lines):
            answers |= self._answered(batch)
            on_progress(len(answers), len(questions))
        return [answers[number] for number in range(len(questions))]

    def _line(self, number: int, question: TokenQuestion) -> _Line:
        """Cut from the left, as the harness does: the targets and the context next to them stay."""
        ids = (question.context_ids + question.target_ids)[-(self.window + 1) :]
        return _Line(number, ids, min(len(question.target_ids), len(ids) - 1))

    def _batches(self, lines: Sequence[_Line]) -> Iterator[list[_Line]]:
        """The longest first, so that what does not fit into memory shows at once."""
        batch: list[_Line] = []
        for line in sorted(lines, key=lambda line: (-line.width, line.ids)):
            width = self._padded(line.width)
            is_full = batch and (len(batch) + 1) * self._padded(batch[0].width) > self._batch_tokens
            if is_full or (batch and width != self._padded(batch[0].width)):
                yield batch
                batch = []
            batch.append(line)
        if batch:
            yield batch

    def _padded(self, width: int) -> int:
        """The next of the widths that batches have: four for each doubling, and the window."""
        step = max(_NARROWEST, 1 << (width - 1).bit_length()) // (2 * _WIDTHS_PER_DOUBLING)
        return min(-(-max(width, _NARROWEST) // step) * step, self.window)

    def _answered(self, batch: list[_Line]) -> dict[int, Likelihood]:
        try:
            return self._run(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        self._batch_tokens = max(self._batch_tokens // 2, 1)  # for all that come after, too
        half = len(batch) // 2
        return self._answered(batch[:half]) | self._answered(batch[half:])

    def _run(self, batch: list[_Line]) -> dict[int, Likelihood]:
        logs_N, is_first_N = self._judged(self._hidden(batch), _targets(batch))
        if not bool(logs_N.isfinite().all()):
            raise TrainingDivergedError(
                "the model gives no finite numbers", hint="was its training stopped by an error?"
            )
        answers, end = {}, 0
        for line in batch:
            places = slice(end, end := end + line.n_targets)
            log_likelihood = float(logs_N[places].double().sum())
            answers[line.number] = Likelihood(log_likelihood, bool(is_first_N[places].all()))
        return answers

    def _hidden(self, batch: list[_Line]) -> Tensor:
        """The hidden states (N, D) from which the targets of the lines are predicted, in order."""
        ids_BT = torch.zeros(len(batch), self._padded(batch[0].width), dtype=torch.int64)
        is_last_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
        for row, line in enumerate(batch):
            ids_BT[row, : line.width] = torch.tensor(line.ids[:-1])
            is_last_BT[row, line.width - line.n_targets : line.width] = True
        device = self._model.device
        hidden_BTD: Tensor = self._model(ids_BT.to(device), Compute(self._dtype))
        return hidden_BTD[is_last_BT.to(device)]

    def _judged(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Of each target ln p, and whether it is the likeliest token; on the CPU."""
        chunk_tokens = LOSS_CHUNK_TOKENS[hidden_ND.device.type]
        logs, is_first = [], []
        for start in range(0, len(hidden_ND), chunk_tokens):
            places = slice(start, start + chunk_tokens)
            targets_C = targets_N[places].to(hidden_ND.device)
            logits_CV = self._logits(hidden_ND[places])
            chosen_C = logits_CV.gather(1, targets_C[:, None])[:, 0]
            logs.append((chosen_C - logits_CV.logsumexp(dim=1)).cpu())
            is_first.append((logits_CV.argmax(dim=1) == targets_C).cpu())
        return torch.cat(logs), torch.cat(is_first)

    def _logits(self, hidden_CD: Tensor) -> Tensor:
        """In fp32; of a quantised model those that it serves."""
        if self._weight_VD is None:
            return self._model.logits(hidden_CD).float()
        return functional.linear(hidden_CD.to(self._dtype), self._weight_VD).float()


def _targets(batch: list[_Line]) -> Tensor:
    """The targets (N) of the lines, in order."""
    return torch.tensor([target for line in batch for target in line.ids[-line.n_targets :]])
