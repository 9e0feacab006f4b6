"""What a run that has succeeded made, and whether that is still there.

Asked by whoever is told to do the same run again. Reads facts and manifests, no content.
"""

from __future__ import annotations

from mulm.errors import CorruptError, NotFoundError
from mulm.facts import Facts
from mulm.records import Run
from mulm.store import Store

_ID = "_id"
"""Ends the keys of a result whose values are ids of manifests; what is before it has the name, if
it is a text: of documents it is their number."""
_FILE = "file"


def gone(run: Run, facts: Facts, store: Store) -> str | None:
    """What the run's result names and nobody can find any more, if anything: told in a sentence.

    A version whose name was taken away is gone too: it would be published anew.
    """
    result = run.result or {}
    try:
        for key, value in result.items():
            if key.endswith(_ID):
                store.load(str(value))
                name = result.get(key.removesuffix(_ID))
                if isinstance(name, str) and not facts.published_as(str(value)):
                    return f"{name} was removed"
        if _FILE in result:
            facts.file(str(result[_FILE]))
    except (NotFoundError, CorruptError) as error:
        return error.message
    return None
