"""Files that a run makes for clients to download, as `/v1/files` gives them.

Called by jobs. Invariant: what a run makes has one id for ever, so that doing it again takes the
place of what an attempt before has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from jobs.entry import JobContext
from mulm.errors import NotFoundError

_CHUNK_BYTES = 1 << 20


def publish_file(context: JobContext, role: str, path: Path, label: str, purpose: str) -> str:
    """Put a file into the store and note it; returns its id.

    Args:
        context: The run.
        role: Tells it from other files of the run.
        path: Where it lies; it may go afterwards.
        label: Its name for people.
        purpose: As OpenAI's files have it.
    """
    blob = context.store.put_stream(path.name, _chunks(path))
    file_id = f"file_{sha256(f'{context.run_id} {role}'.encode()).hexdigest()[:12]}"
    with suppress(NotFoundError):
        context.facts.remove_file(file_id)  # of an attempt before
    context.facts.add_file(file_id, label, purpose, blob.size_bytes, blob.sha256)
    return file_id


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
