"""The store: immutable versions, made of blobs, and the memory of finished steps.

Called by every job and by the engine host. Invariants: those of `mulm.blobs`; a manifest is
written only after all of its blobs; a remembered step is recalled only if all of its result is
whole.

    blobs/ab/abcdef...      the bytes
    manifests/ds_....json   versions
    steps/<key>.json        markers of finished steps: same inputs, so no need to run again
    downloads/              files of sources that lie elsewhere: a cache
    incoming/               blobs of which the name is not known yet; old ones are leftovers
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mulm.atomic import write_atomic
from mulm.blobs import Blobs
from mulm.config import canonical_json
from mulm.errors import CorruptError, NotFoundError
from mulm.home import Home
from mulm.manifest import BlobEntry, Manifest, is_manifest_id, parse_manifest
from mulm.origin import FsOrigin

_log = logging.getLogger(__name__)

R = TypeVar("R")

STORE_URL = "MULM_STORE_URL"
"""The variable that names a store elsewhere, of which the local one is then a cache."""


class Store(Blobs):
    """A content-addressed store in a local folder; see `Blobs` for its arguments."""

    @property
    def downloads(self) -> Path:
        """Where files of sources that lie elsewhere are kept; may be deleted at any time."""
        return self.root / "downloads"

    def save(self, manifest: Manifest) -> str:
        """Write a manifest whose blobs are all stored, also over a damaged one; returns its id.

        A version that is there and whole stays as it is: another compressor may have made other
        bytes with the same content.
        """
        for entry in manifest.blobs:
            self.existing(entry)
        path = self._manifest_path(manifest.id)
        if self._is_whole(manifest):
            self.touch(path)
        else:
            write_atomic(path, manifest.to_bytes(), mode=0o444)
        return manifest.id

    def load(self, manifest_id: str) -> Manifest:
        """Read a manifest back, checked.

        Raises:
            NotFoundError: no manifest of that id.
            CorruptError: its bytes do not match its id.
        """
        path = self._manifest_path(manifest_id)
        try:
            return self._load_here(manifest_id)
        except (NotFoundError, CorruptError):
            if self._origin is None:
                raise
        content = self._origin.manifest(manifest_id)
        manifest = parse_manifest(content, manifest_id)
        write_atomic(path, content, mode=0o444)
        return manifest

    def manifest_ids(self) -> list[str]:
        """The versions that are stored here, sorted."""
        names = (path.stem for path in (self.root / "manifests").glob("*.json"))
        return sorted(name for name in names if is_manifest_id(name))

    def remember(self, key: str, manifest_id: str) -> None:
        """Mark the step with this input key (see `step_key`) as finished."""
        write_atomic(self._step_path(key), canonical_json({"manifest": manifest_id}))

    def recall(self, key: str) -> Manifest | None:
        """The result of a finished step, if all of it is still there and whole.

        What is lost or damaged counts as unknown: making it again mends it.
        """
        return self._recalled(key, self._recall)

    def remember_blobs(self, key: str, entries: Sequence[BlobEntry]) -> None:
        """As `remember`, for a step inside a build whose result is no version."""
        values = {"blobs": [entry.values() for entry in entries]}
        write_atomic(self._step_path(key), canonical_json(values))

    def recall_blobs(self, key: str) -> tuple[BlobEntry, ...] | None:
        """As `recall`, for `remember_blobs`."""
        return self._recalled(key, self._recall_blobs)

    def _recalled(self, key: str, recall: Callable[[Mapping[str, Any]], R]) -> R | None:
        path = self._step_path(key)
        try:
            result = recall(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, NotFoundError, CorruptError) as error:
            _log.info("a finished step is made again key=%s reason=%s", key, error)
            return None
        self.touch(path)
        return result

    def _recall(self, marker: Mapping[str, Any]) -> Manifest:
        manifest = self.load(str(marker["manifest"]))
        self._use(manifest.blobs)
        self.touch(self._manifest_path(manifest.id))
        return manifest

    def _recall_blobs(self, marker: Mapping[str, Any]) -> tuple[BlobEntry, ...]:
        entries = tuple(BlobEntry.model_validate(values) for values in marker["blobs"])
        self._use(entries)
        return entries

    def _use(self, entries: Sequence[BlobEntry]) -> None:
        for path in self.paths(entries):
            self.touch(path)

    def _is_whole(self, manifest: Manifest) -> bool:
        """Whether a version of that id is stored and nothing of it is damaged."""
        try:
            stored = self._load_here(manifest.id)
            if stored != manifest:
                self.paths(stored.blobs)
        except (NotFoundError, CorruptError):
            return False
        return True

    def _load_here(self, manifest_id: str) -> Manifest:
        try:
            content = self._manifest_path(manifest_id).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no version {manifest_id!r} in the store") from None
        return parse_manifest(content, manifest_id)

    def _manifest_path(self, manifest_id: str) -> Path:
        if not is_manifest_id(manifest_id):
            raise NotFoundError(f"{manifest_id!r} is not a version id")
        return self.root / "manifests" / f"{manifest_id}.json"

    def _step_path(self, key: str) -> Path:
        return self.root / "steps" / f"{key}.json"


def step_key(step: str, **inputs: object) -> str:
    """The key of a pipeline step: a hash over its name and all that its result depends on."""
    return hashlib.sha256(canonical_json({"step": step, **inputs})).hexdigest()


def open_store(home: Home, env: Mapping[str, str] = os.environ) -> Store:
    """The store of an installation; with `MULM_STORE_URL` it is a cache of the store there.

    Raises:
        ConfigError: the URL cannot be opened.
    """
    url = env.get(STORE_URL)
    return Store(home.store, FsOrigin(url) if url else None)
