"""`mulm data rm`: the name of a dataset version is taken away, here or at a server elsewhere.

Opened by `jobs.cli_data`. Invariants: what is needed keeps its name, and both ways say why alike;
a removal leaves a row in the audit log.
"""

from __future__ import annotations

from typing import Any, Protocol

from actors.write_fact import write_fact
from jobs.dataset_shelf import HomeShelf
from jobs.ledger_desk import note_of
from jobs.remote import Remote
from mulm.data.removal import Gone, removable, take_away
from mulm.errors import NotFoundError
from mulm.refs import parse_ref


class Removal(Protocol):
    """Takes names away; the files stay until they are collected."""

    def find(self, ref: str) -> tuple[str, str]:
        """The exact name of the version that is meant, and its id; nothing is done yet.

        Raises:
            NotFoundError: there is none.
            ConflictError, CorruptError: as `remove`; a server says so only when it is to remove.
        """

    def remove(self, exact: str) -> list[str]:
        """Take the name away; returns what has none any more, such as `dataset books@2`.

        Raises:
            NotFoundError: it has no such name any more.
            ConflictError: an alias points to it, a model was made from it, or a run reads it.
            CorruptError: something in the store is damaged, so that this is not known.
        """


class HomeRemoval:
    """On this machine."""

    def __init__(self, shelf: HomeShelf) -> None:
        self._shelf = shelf

    def find(self, ref: str) -> tuple[str, str]:
        """See `Removal.find`; what is needed is refused already."""
        version = removable(self._shelf, ref)
        return version.ref, version.manifest_id

    def remove(self, exact: str) -> list[str]:
        """See `Removal.remove`."""
        note = note_of("mulm data rm", f"/api/v1/datasets/{exact}")

        def remove(gone: list[Gone], only_at: int) -> None:
            write_fact(self._shelf.home, "remove_versions", gone, only_at, noted=note)

        return [f"{one.kind} {one.ref}" for one in take_away(self._shelf, exact, remove)]


class RemoteRemoval:
    """At a server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def find(self, ref: str) -> tuple[str, str]:
        """See `Removal.find`."""
        found: dict[str, Any] = self._remote.get(f"datasets/{parse_ref(ref)}")
        return str(found["id"]), str(found["manifest_id"])

    def remove(self, exact: str) -> list[str]:
        """See `Removal.remove`."""
        try:
            told = self._remote.delete(f"datasets/{exact}")
        except NotFoundError:  # a first try, whose answer was lost, or somebody else was faster
            return [f"dataset {exact}"]
        return [f"{one['kind']} {one['ref']}" for one in told["removed"]]
