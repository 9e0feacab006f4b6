"""`mulm data rm`: the name of a dataset version is taken away, here or at a server elsewhere.

Opened by `jobs.cli_data`. Invariant: what is needed keeps its name, and both ways say why alike.
"""

from __future__ import annotations

from typing import Any, Protocol

from actors.write_fact import write_fact
from jobs.dataset_shelf import HomeShelf
from jobs.remote import Remote
from mulm.data.removal import going, removable
from mulm.errors import NotFoundError
from mulm.records import Version
from mulm.refs import parse_ref


class Removal(Protocol):
    """Takes names away; the files stay until they are collected."""

    def find(self, ref: str) -> tuple[str, str]:
        """The exact name of a version that may go, and its id. Raises NotFoundError."""

    def remove(self, exact: str) -> list[str]:
        """Take the name away; returns what has none any more, such as `dataset books@2`.

        Raises:
            ConflictError: an alias points to it, a model was made from it, or a run reads it.
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
        nameless = going(self._shelf, removable(self._shelf, exact))
        for gone in nameless:
            write_fact(self._shelf.home, "remove_version", gone.kind, gone.name, gone.number)
        return [_told(gone) for gone in nameless]


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


def _told(version: Version) -> str:
    return f"{version.kind} {version.ref}"
