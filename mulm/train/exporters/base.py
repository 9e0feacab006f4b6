"""The contract of exporters: where a run's numbers and samples go beside the ledger.

An exporter is opened, fed and closed in one thread of its own (`background`), so it may wait for a
server, and whatever it raises ends itself alone. It only shows; the truth is in the ledger.
A new one is a file beside this one and a line in `registry`. Light: needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What an exporter is told about a run when it begins."""

    run_id: str
    """The same when the run goes on after it was killed."""
    name: str
    """Of the model that comes out of it."""
    folder: Path
    """The run's own; may not exist yet."""
    first_step: int
    """Steps that are done. What a killed run had told of later ones comes again."""
    config: Mapping[str, Any]
    """All settings, JSON-compatible."""


class Exporter(Protocol):
    """One run in one foreign tool. Its class takes the `RunFacts`, and imports the tool then."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after `step` steps, by name; several calls may belong to one step."""

    def text(self, step: int, name: str, text: str) -> None:
        """A text after `step` steps, such as a sample; it is not to be taken for markup."""

    def close(self) -> None:
        """All has been told; what waits is to be made durable or sent now."""
