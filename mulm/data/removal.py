"""Taking the name of a dataset version away: what may go, and what goes with it.

Asked by `mulm data rm` and by the HTTP API; whoever asks tells the ledger. Invariants: a name is
taken away only from what no alias, no model and no unended run needs; nothing here changes
anything.
"""

from __future__ import annotations

from mulm.data.shelf import Shelf
from mulm.errors import ConflictError, CorruptError, NotFoundError
from mulm.lineage import lineage
from mulm.records import Version
from mulm.refs import parse_ref


def removable(shelf: Shelf, ref: str) -> Version:
    """The version, if nothing needs that it has its name.

    Raises:
        NotFoundError: there is none.
        ConflictError: an alias points to it, a model was made from it, or a run reads it.
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
    return [run.id for run in runs if version.ref in run.texts]


def _models_of(shelf: Shelf, version: Version) -> list[str]:
    try:
        relatives = lineage(shelf.store, shelf.facts, version.manifest_id).descendants
    except NotFoundError:
        return []  # nothing can need what is not here
    return [ref for found in relatives if found.kind == "model" for ref in found.refs]
