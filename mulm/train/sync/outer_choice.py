"""Which outer step the islands of a run take, where its config leaves it open.

Asked by who starts islands, and by those who tell what a run would be. Invariants: by the number
of rounds ahead the better one of those that were measured is taken; what was taken is remembered
with the rounds, so that a run that is gone on with does not change it in the midst. The rows are
those of docs/synchronisation.md ("Averaging or momentum"), which has the command.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mulm.atomic import make_folder, write_atomic
from mulm.train.sync.outer_step import OUTERS, Outer
from mulm.train.sync_config import DilocoConfig

_log = logging.getLogger(__name__)

NAME = "outer"
_WORDS: dict[Outer, str] = {"average": "plain averaging", "nesterov": "Nesterov's momentum"}


@dataclass(frozen=True, slots=True)
class Measured:
    """Held-out nats with either outer step after so many rounds: the mean of two seeds."""

    n_rounds: int
    average: float
    nesterov: float

    @property
    def better(self) -> Outer:
        """Averaging, unless momentum has less."""
        return "nesterov" if self.nesterov < self.average else "average"


BY_ROUNDS = (
    Measured(10, average=2.447, nesterov=2.598),
    Measured(40, average=2.075, nesterov=2.437),
    Measured(200, average=1.781, nesterov=2.217),
)
"""Two islands, 5 inner steps in a round, `outer_lr` 0.7 and `outer_momentum` 0.9."""


@dataclass(frozen=True, slots=True)
class OuterChoice:
    """An outer step, and why."""

    kind: Outer
    reason: str

    @property
    def text(self) -> str:
        """For a person."""
        return f"the shared weights move by {_WORDS[self.kind]}: {self.reason}"


def choose_outer(
    asked: DilocoConfig, n_rounds: float | None, measured: Sequence[Measured] = BY_ROUNDS
) -> OuterChoice:
    """What the config asks for, else the better one at as many rounds, or the nearest fewer.

    Args:
        asked: Of the run's config.
        n_rounds: That are ahead; None where nobody knows how fast the run is.
        measured: Ordered by their rounds.
    """
    if asked.outer != "auto":
        return OuterChoice(asked.outer, "the config asks for it")
    if n_rounds is None:
        first = measured[0]
        return OuterChoice(first.better, "how many rounds there will be is not known beforehand")
    row = max((m for m in measured if m.n_rounds <= n_rounds), key=lambda m: m.n_rounds,
              default=measured[0])  # fmt: skip
    few, most = min(row.average, row.nesterov), max(row.average, row.nesterov)
    return OuterChoice(
        row.better,
        f"about {n_rounds:.0f} rounds are ahead, and in runs of {row.n_rounds} it had"
        f" {few:.2f} nats, the other outer step {most:.2f}",
    )


def remembered_outer(folder: Path, chosen: OuterChoice) -> OuterChoice:
    """What the run took when it began, else the choice, which is remembered.

    Raises:
        NoSpaceError: the disk is full.
    """
    path = folder / NAME
    if path.exists():
        kept = path.read_bytes().decode(errors="replace").strip()
        for kind in OUTERS:
            if kept == kind:
                return OuterChoice(kind, "the run began with it")
        _log.warning("which outer step the run began with is damaged path=%s", path)
    make_folder(folder)
    write_atomic(path, f"{chosen.kind}\n".encode())
    return chosen
