"""What a shell offers in the place of a name: versions, aliases, runs of this installation.

Called by click while a person presses tab. Invariants: nothing is made or changed; where nothing
can be read nothing is offered, since a shell has no place for an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from mulm.errors import MulmError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Kind

_MOST_OFFERED = 100
"""Of what may be tens of thousands."""

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def names_of(kind: Kind) -> Complete:
    """Names of versions of a kind; behind an @ their numbers and aliases."""

    def complete(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        with _facts() as facts:
            if facts is None:
                return []
            versions = facts.versions(kind)
            refs = [v.ref for v in versions] + [alias.ref for alias in facts.all_aliases(kind)]
        names = refs if "@" in begun else sorted({version.name for version in versions})
        return [name for name in names if name.startswith(begun)]

    return complete


def run_names(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Ids of runs and names of trained models."""
    from mulm.runs.kinds import TRAIN, name_of

    with _facts() as facts:
        runs = [] if facts is None else facts.runs()
    names = [run.id for run in runs] + sorted({name_of(r) for r in runs if r.kind == TRAIN})
    return [name for name in names if name and name.startswith(begun)]


def feedback_ids(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Ids of feedback, the newest first."""
    with _facts() as facts:
        found = [] if facts is None else facts.feedback(limit=_MOST_OFFERED)
    return [each.id for each in found if each.id.startswith(begun)]


@contextmanager
def _facts() -> Iterator[Ledger | None]:
    home = Home.from_env()
    if not home.ledger.exists():
        yield None
        return
    try:
        facts = Ledger(home.ledger)
    except MulmError:
        yield None
        return
    with facts:
        yield facts
