"""The contract of suites: benchmarks of fixed items, scored as lm-evaluation-harness 0.4.13 does.

A suite is a small class that turns a row of a file into questions to a model, and the answers into
numbers; `mulm.eval.scoring` reads the rows, asks the model and adds up. The registry of
`mulm.eval.suites.registry` knows suites by name, `mulm.eval.suites.contract` checks one. Needs no
torch. Invariants: a suite keeps no state, and what it returns depends on its arguments alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Row = Mapping[str, Any]
"""A row of a file, by column."""


class RowError(ValueError):
    """A row that has all columns and makes no item; the message says why."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a suite gives for each item, and how those become one.

    A "share" is 0 or 1 for an item and their mean for the suite. "perplexity" is a log-likelihood
    for an item, and exp of minus their mean for the suite.
    """

    name: str
    kind: Literal["share", "perplexity"] = "share"


@dataclass(frozen=True, slots=True)
class Continuation:
    """A question: how likely is `text` after `context`? An empty context is the start of a text."""

    context: str
    text: str


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The answer: ln p(text | context), and whether each of its tokens was the likeliest."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question: what follows `text`, greedily, up to one of `stops`, at most `max_tokens`?"""

    text: str
    stops: tuple[str, ...] = ()
    max_tokens: int = 256


class Suite(ABC):
    """What both kinds of suites say of themselves."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    """The first is the one that people quote."""
    columns: ClassVar[Mapping[str, tuple[type, ...]]]
    """The columns that a row must have, and the types that their values may have."""
    hub: ClassVar[str]
    """The `hf://` URL of the items that are usually scored."""
    sample: ClassVar[str] = ""
    """The file of a few items that comes with us, if there is one."""

    def group(self, row: Row) -> str:
        """The part of the suite that a row belongs to; a limit counts for each part."""
        del row
        return ""


class LikelihoodSuite(Suite):
    """Compares how likely given texts are."""

    @abstractmethod
    def questions(self, row: Row) -> Sequence[Continuation]:
        """What the model is asked about a row.

        Raises:
            RowError: the row makes no item.
        """

    @abstractmethod
    def measure(self, row: Row, answers: Sequence[Likelihood]) -> Mapping[str, float]:
        """The value of each metric; the answers are in the order of the questions."""


class GenerationSuite(Suite):
    """Judges what a model writes."""

    hub_shots: ClassVar[str] = ""
    """Where the worked examples are that stand before a question; by default among the items."""
    n_shots: ClassVar[int] = 0
    """How many of them."""

    @abstractmethod
    def prompt(self, row: Row, shots: Sequence[Row]) -> Prompt:
        """What the model continues.

        Raises:
            RowError: the row makes no item.
        """

    @abstractmethod
    def measure(self, row: Row, answer: str) -> Mapping[str, float]:
        """The value of each metric."""
