"""Taking the name of a dataset version away: what may go, and what goes with it.

Called by `mulm data rm` and by the HTTP API. Invariants: a name is taken away only from what no
alias, no model and no unended run needs, as the ledger is at that moment; a version and its own
tokenizer lose their names together.
"""

from __future__ import annotations

from collections.abc import Callable

from mulm.data.shelf import Shelf
from mulm.errors import ConflictError, CorruptError, NotFoundError
from mulm.lineage import lineage
from mulm.manifest import Kind
from mulm.records import Version
from mulm.refs import parse_ref
from mulm.runs.kinds import reads

_LOOKS = 5
"""Runs move and versions come meanwhile: so often it is looked again."""

Gone = tuple[Kind, str, int]
"""What loses its name: kind, name and number."""


def take_away(shelf: Shelf, ref: str, remove: Callable[[list[Gone], int], None]) -> list[Version]:
    """Take the name of a version away, and that of its own tokenizer; returns both.

    Args:
        shelf: Where it lies.
        ref: The version.
        remove: `Facts.remove_versions` of the ledger's owner.

    Raises:
        NotFoundError, ConflictError, CorruptError: see `removable`.
    """
    for n_left in reversed(range(_LOOKS)):
        looked = shelf.facts.last_happening()
        nameless = going(shelf, removable(shelf, ref))
        try:
            remove([(one.kind, one.name, one.number) for one in nameless], looked)
        except ConflictError:
            if not n_left:
                raise
        else:
            return nameless
    raise AssertionError("the last look returns or raises")


def removable(shelf: Shelf, ref: str) -> Version:
    """The version, if nothing needs that it has its name.

    Raises:
        NotFoundError: there is none.
        ConflictError: an alias points to it, a model was made from it, or a run reads it.
        CorruptError: a manifest in the store is damaged, so that it is not known who needs it.
    """
    version = shelf.facts.resolve("dataset", parse_ref(ref))
    if aliases := shelf.aliases(version):
        raise ConflictError(
            f"{version.ref} is {version.name}@{aliases[0]}",
            hint="point the alias to another version first",
        )
    if runs := _runs_of(shelf, version):
        raise ConflictError(
            f"{version.ref} is read by {', '.join(runs)}",
            hint="a run that has not ended may go on: let it end first",
        )
    is_last_name = len(shelf.facts.published_as(version.manifest_id)) == 1
    if is_last_name and (models := _models_of(shelf, version)):
        raise ConflictError(
            f"{version.ref} is needed by {', '.join(models)}",
            hint="a model is made again, and evaluated, with the dataset that it comes from",
        )
    return version


def going(shelf: Shelf, version: Version) -> list[Version]:
    """What loses its name: a version, and its tokenizer if that was trained for it alone."""
    return [version, *_tokenizers_of(shelf, version)]


def _tokenizers_of(shelf: Shelf, version: Version) -> list[Version]:
    """Tokenizers of the same name that nothing else with a name was made with."""
    try:
        tokenizer_id = shelf.store.load(version.manifest_id).parents.get("tokenizer", "")
        relatives = lineage(shelf.store, shelf.facts, tokenizer_id).descendants
    except (NotFoundError, CorruptError):
        return []  # what uses it is not known
    users = {ref for found in relatives for ref in found.refs}
    names = shelf.facts.published_as(tokenizer_id)
    aliases = shelf.facts.aliases("tokenizer", version.name).values()
    is_needed = users != {version.ref} or any(
        name.number in aliases or _runs_of(shelf, name) for name in names
    )
    return [] if is_needed else [name for name in names if name.name == version.name]


def _runs_of(shelf: Shelf, version: Version) -> list[str]:
    """Runs that have not ended and name it; configs of runs hold names, not ids."""
    runs = (run for run in shelf.facts.runs() if not run.has_ended)
    return [run.id for run in runs if reads(run, version.kind, version.ref)]


def _models_of(shelf: Shelf, version: Version) -> list[str]:
    try:
        relatives = lineage(shelf.store, shelf.facts, version.manifest_id).descendants
    except NotFoundError:
        return []  # nothing can need what is not here
    return [ref for found in relatives if found.kind == "model" for ref in found.refs]
