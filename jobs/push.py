"""Copies of versions in the store elsewhere that `MULM_STORE_URL` names.

`jobs.entry` and `jobs.exchange` copy what was just made; `mulm model push` and its like what is
there already. Invariant: what was made stays made, however its copy fares.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from jobs.dataset_words import size_text
from jobs.progress import Progress
from jobs.run_end import as_ours
from mulm.errors import ConfigError, MulmError, NotFoundError
from mulm.facts import Facts
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import HOW_TO_MAKE, Kind
from mulm.origin_trouble import shown
from mulm.refs import parse_ref
from mulm.store import STORE_URL, Store
from mulm.upload import push

_log = logging.getLogger(__name__)


def push_made(
    home: Home,
    result: Mapping[str, Any],
    tell: Callable[[str], object],
    env: Mapping[str, str] = os.environ,
) -> None:
    """Copy the versions that a result names, where a store elsewhere is set.

    A failure is told, and that is all: the copy can be made later.

    Args:
        home: Where they are.
        result: Of a run; what ends with `_id` is the id of a version.
        tell: Takes one line about it.
        env: The variables.
    """
    url = env.get(STORE_URL)
    ids = sorted({str(value) for key, value in result.items() if key.endswith("_id")})
    if not url or not ids:
        return
    try:
        done = push(Store(home.store), url, ids)
        tell(f"copied to {shown(url)}: {done.n_blobs} files, {size_text(done.size_bytes)}")
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - a border; the run has ended well
        ours = as_ours(error)
        _log.warning("not copied url=%s reason=%s", shown(url), shown(ours.message))
        with suppress(MulmError):
            tell(_failed_text(ours))


def _failed_text(error: MulmError) -> str:
    hint = f" ({error.hint})" if error.hint else ""
    later = "`mulm data push` and `mulm model push` do so later"
    return f"not copied: {shown(error.message)}{hint}; {later}"


def push_named(
    home: Home,
    kind: Kind,
    ref: str | None,
    progress: Progress,
    env: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Copy a version, or all of a kind, with what they were made from.

    Raises:
        ConfigError: no store elsewhere is set, or it cannot be opened or written.
        NotFoundError: there is no such version, or a file of it is missing.
        CorruptError: a file is damaged here, or was not kept whole there.
        UnreachableError, AuthError: the other side is not there, or refuses.
    """
    url = env.get(STORE_URL)
    if not url:
        raise ConfigError(
            f"{STORE_URL} is not set", hint="such as s3://bucket/folder or file:///mnt/nas/mulm"
        )
    with Ledger(home.create().ledger) as facts:
        named = _named(facts, kind, ref)

    def show(done_bytes: int, total_bytes: int) -> None:
        progress.event(
            "progress", {"stage": "push", "done": done_bytes, "total": total_bytes, "unit": "B"}
        )

    try:
        done = push(Store(home.store), url, sorted(set(named.values())), show)
    finally:
        progress.clear()
    return {
        "url": shown(url),
        "versions": list(named),
        "files": done.n_blobs,
        "size_bytes": done.size_bytes,
    }


def _named(facts: Facts, kind: Kind, ref: str | None) -> dict[str, str]:
    """The ids of what is meant, by name."""
    if ref:
        version = facts.resolve(kind, parse_ref(ref))
        return {version.ref: version.manifest_id}
    found = {version.ref: version.manifest_id for version in facts.versions(kind)}
    if not found:
        raise NotFoundError(f"no {kind} to copy", hint=HOW_TO_MAKE[kind])
    return found
