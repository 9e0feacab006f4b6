"""What a case of the fault suite is, and what it found.

Shared by all cases. Invariants: all chance in a case comes from the generator that it is given, so
that the seed and the name repeat it; what is wrong is a sentence in `Outcome.wrong`, and a case
without one has passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.chaos.world import World


@dataclass(slots=True)
class Outcome:
    """What a case saw."""

    wrong: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    """Numbers and words for the table."""

    def require(self, is_so: bool, otherwise: str) -> None:
        """Note what is wrong unless something is so."""
        if not is_so:
            self.wrong.append(otherwise)


@dataclass(frozen=True, slots=True)
class Case:
    """One fault.

    `run` gets the running application, or None where `needs_application` is not set. One that
    `needs_machines` makes them, each with a home of its own.
    """

    name: str
    what: str
    run: Callable[[World, Random, Outcome], None]
    needs_application: bool = True
    needs_machines: bool = False


def draw_of(seed: int, name: str) -> Random:
    """The generator of one case."""
    return Random(f"{seed} {name}")  # a text seeds the same on every machine
