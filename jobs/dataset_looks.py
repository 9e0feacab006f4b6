"""The looks into dataset versions that `mulm data` has, here or at a server elsewhere.

Opened by the verbs (`jobs.cli_data_look`); `jobs.remote_looks` has the same over HTTP. Invariant:
both tell the same of the same version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mulm.data.shelf import Shelf
from mulm.data.stats import Stats
from mulm.data.views import PreviewOrder, diff, preview, rejects, stats
from mulm.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Counted:
    """The statistics of one version."""

    ref: str
    dataset_id: str
    is_packed: bool
    """Whether documents are cut into rows of one length."""
    told: Stats


class Looks(Protocol):
    """What can be seen of datasets; all raise NotFoundError for a version that is not there."""

    def preview(self, ref: str, order: PreviewOrder) -> list[dict[str, Any]]:
        """See `mulm.data.views.preview`."""

    def stats(self, ref: str) -> Counted:
        """See `mulm.data.views.stats`."""

    def rejects(self, ref: str, reason: str | None, n: int, seed: int) -> dict[str, Any]:
        """See `mulm.data.views.rejects`."""

    def diff(self, before: str, after: str, n: int) -> dict[str, Any]:
        """See `mulm.data.views.diff`."""

    def lineage(self, ref: str) -> Lineage:
        """See `mulm.lineage`."""


class ShelfLooks:
    """`Looks` into the versions of a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def preview(self, ref: str, order: PreviewOrder) -> list[dict[str, Any]]:
        """See `Looks`."""
        return preview(self._shelf, self._shelf.find(ref), order)

    def stats(self, ref: str) -> Counted:
        """See `Looks`."""
        found = self._shelf.find(ref)
        told = stats(self._shelf, found)
        return Counted(found.ref, found.dataset.id, is_packed(found.dataset.config), told)

    def rejects(self, ref: str, reason: str | None, n: int, seed: int) -> dict[str, Any]:
        """See `Looks`."""
        return rejects(self._shelf, self._shelf.find(ref), reason, n, seed)

    def diff(self, before: str, after: str, n: int) -> dict[str, Any]:
        """See `Looks`."""
        return diff(self._shelf, self._shelf.find(before), self._shelf.find(after), n)

    def lineage(self, ref: str) -> Lineage:
        """See `Looks`."""
        return self._shelf.relatives(ref)


def is_packed(config: dict[str, Any]) -> bool:
    """Whether the dataset of that config has rows of one length."""
    return (config.get("pack") or {}).get("seq_len") is not None
