"""Multiple choice by likelihood: the model's answer is the choice that it finds likeliest.

The base of most suites. Invariant: `acc` takes the sums of log-likelihoods, `acc_norm` divides each
by the characters of its choice, `acc_bytes` by its UTF-8 bytes, the space before a choice not
counted; among equals the first choice is the answer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from mulm.eval.suites.base import Continuation, Likelihood, LikelihoodSuite, Metric, Row, RowError

_LENGTH: Mapping[str, Callable[[str], int]] = {
    "acc": lambda _: 1,
    "acc_norm": len,
    "acc_bytes": lambda choice: len(choice.encode()),
}


class MultipleChoice(LikelihoodSuite):
    """A suite says what the context is, what the choices are, and which one is right."""

    metrics: ClassVar[tuple[Metric, ...]] = tuple(Metric(name) for name in _LENGTH)

    @abstractmethod
    def context(self, row: Row) -> str:
        """What stands before every choice."""

    @abstractmethod
    def choices(self, row: Row) -> Sequence[str]:
        """The possible answers, without the space before them."""

    @abstractmethod
    def answer(self, row: Row) -> int:
        """The index of the right choice."""

    def questions(self, row: Row) -> Sequence[Continuation]:
        """See `LikelihoodSuite.questions`: a space and a choice, for each."""
        context, choices = self.context(row), self.choices(row)
        if not all(isinstance(choice, str) for choice in choices):
            raise RowError("has a choice that is no text")
        if not 0 <= self.answer(row) < len(choices):
            raise RowError(f"has {len(choices)} choices, and its answer is none of them")
        return [Continuation(context, f" {choice}") for choice in choices]

    def measure(self, row: Row, answers: Sequence[Likelihood]) -> Mapping[str, float]:
        """See `LikelihoodSuite.measure`."""
        choices, right = self.choices(row), self.answer(row)
        return {
            metric.name: float(_likeliest(choices, answers, _LENGTH[metric.name]) == right)
            for metric in self.metrics
        }


def _likeliest(
    choices: Sequence[str], answers: Sequence[Likelihood], length: Callable[[str], int]
) -> int:
    """A choice of nothing has no likelihood per letter, and is never the likeliest."""
    values = [
        answer.log_likelihood / length(choice) if length(choice) else -math.inf
        for choice, answer in zip(choices, answers, strict=True)
    ]
    return values.index(max(values))


def index_of(label: object) -> int:
    """A label that is a number, or one in digits.

    Raises:
        RowError: it is neither: such are the rows whose answers are kept secret.
    """
    try:
        return int(str(label))
    except ValueError:
        raise RowError(f"has no answer (label {label!r}): take the part with answers") from None
