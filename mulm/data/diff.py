"""The difference of two versions: settings, files, documents, and what they share on disk.

Called by `mulm data diff`. Documents are matched by text and place (name, part, row), then by text
alone (moved or renamed), then by place alone (rewritten); what is left was added or removed.
Invariant: no texts are read; what lies in memory is some tens of bytes a document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from mulm.data.corpus import Corpus
from mulm.data.dedup import DIGEST_BYTES
from mulm.manifest import Manifest

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A value that differs; None where one side does not have it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Names of files that were read."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocumentChanges:
    """What became of the documents; numbers are those in the versions before and after."""

    n_same: int
    """Same text and same decision."""
    decided: dict[str, int]
    """Same text, another decision: how many by `before -> after`."""
    n_rewritten: int
    added: dict[str, int]
    """By what was decided of them."""
    removed: dict[str, int]
    decided_pairs: tuple[tuple[int, int], ...]
    rewritten_pairs: tuple[tuple[int, int], ...]
    added_numbers: tuple[int, ...]
    removed_numbers: tuple[int, ...]
    """Of each the first few, as many as were asked for."""


def setting_changes(
    before: Mapping[str, Manifest], after: Mapping[str, Manifest]
) -> tuple[SettingChange, ...]:
    """What the manifests of two versions (by role) say differently, files and counts aside."""
    old, new = _settings(before), _settings(after)
    return tuple(
        SettingChange(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def file_changes(before: Manifest, after: Manifest) -> FileChanges:
    """Which files two versions of kind "documents" read differently."""
    old, new = _files(before), _files(after)
    return FileChanges(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


def document_changes(before: Corpus, after: Corpus, n_shown: int) -> DocumentChanges:
    """Match the documents of two versions.

    Raises:
        NotFoundError, CorruptError: a file is missing or damaged.
    """
    old, new = _Index.of(before), _Index.of(after)
    known = _match(old.digests_at_places, new.digests_at_places, old.all_rows, new.all_rows)
    moved = _match(old.digests, new.digests, *_rest(old, new, [known]))
    rewritten = _match(old.places, new.places, *_rest(old, new, [known, moved]))
    removed, added = _rest(old, new, [known, moved, rewritten])
    same = np.concatenate([known, moved])
    same = same[np.argsort(same[:, 1], kind="stable")]
    is_decided = old.decisions[same[:, 0]] != new.decisions[same[:, 1]]
    decided = same[is_decided]
    return DocumentChanges(
        n_same=int((~is_decided).sum()),
        decided=_counted(
            f"{a} -> {b}"
            for a, b in zip(old.decisions[decided[:, 0]], new.decisions[decided[:, 1]], strict=True)
        ),
        n_rewritten=len(rewritten),
        added=_counted(new.decisions[added]),
        removed=_counted(old.decisions[removed]),
        decided_pairs=_pairs(decided, n_shown),
        rewritten_pairs=_pairs(rewritten, n_shown),
        added_numbers=tuple(added[:n_shown].tolist()),
        removed_numbers=tuple(removed[:n_shown].tolist()),
    )


def blob_sizes(manifests: Iterable[Manifest]) -> dict[str, int]:
    """Bytes of each blob of some manifests, by checksum: what they take on disk together."""
    return {entry.sha256: entry.size_bytes for manifest in manifests for entry in manifest.blobs}


def shared_bytes(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Bytes of the blobs that both have."""
    return sum(size_bytes for blob, size_bytes in before.items() if blob in after)


@dataclass(frozen=True, slots=True)
class _Index:
    """What documents are matched by; digests and places are of 16 bytes each."""

    digests: np.ndarray
    places: np.ndarray
    digests_at_places: np.ndarray
    decisions: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus) -> _Index:
        digests, places, decisions = [], [], []
        for chunk in corpus.chunks:
            table = corpus.table(chunk, ("digest", "name", "part", "row"))
            digests.append(b"".join(table["digest"].to_pylist()))
            rows = zip(*(table[key].to_pylist() for key in ("name", "part", "row")), strict=True)
            places.append(b"".join(_place(*row) for row in rows))
            decisions.append(np.array(chunk.decisions.names, object)[chunk.decisions.codes])
        by_digest = np.frombuffer(b"".join(digests), "<u8")
        by_place = np.frombuffer(b"".join(places), "<u8")
        return cls(
            _as_keys(by_digest),
            _as_keys(by_place),
            _as_keys(by_digest ^ by_place),
            np.concatenate(decisions) if decisions else np.zeros(0, object),
        )

    @property
    def all_rows(self) -> Rows:
        return np.arange(len(self.decisions), dtype=np.int64)


def _match(old: np.ndarray, new: np.ndarray, old_rows: Rows, new_rows: Rows) -> np.ndarray:
    """Pairs (row before, row after) of equal keys; the n-th of equals goes with the n-th."""
    keys = np.concatenate([old[old_rows], new[new_rows]])
    if not len(keys):
        return np.zeros((0, 2), np.int64)
    _, numbers = np.unique(keys, return_inverse=True)
    turns = [_turns(numbers[: len(old_rows)]), _turns(numbers[len(old_rows) :])]
    n_turns = 1 + max(int(turn.max()) if len(turn) else 0 for turn in turns)
    unique = numbers.astype(np.int64) * n_turns + np.concatenate(turns)
    _, left, right = np.intersect1d(
        unique[: len(old_rows)], unique[len(old_rows) :], assume_unique=True, return_indices=True
    )
    pairs = np.stack([old_rows[left], new_rows[right]], axis=1)
    return pairs[np.argsort(pairs[:, 1], kind="stable")]


def _turns(numbers: np.ndarray) -> Rows:
    """How many equal ones stand before each."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    is_first = np.ones(len(ordered), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_first)
    turns = np.empty(len(ordered), np.int64)
    turns[order] = np.arange(len(ordered)) - starts[np.cumsum(is_first) - 1]
    return turns


def _rest(old: _Index, new: _Index, matched: list[np.ndarray]) -> tuple[Rows, Rows]:
    pairs = np.concatenate(matched)
    return (
        np.setdiff1d(old.all_rows, pairs[:, 0], assume_unique=True),
        np.setdiff1d(new.all_rows, pairs[:, 1], assume_unique=True),
    )


def _place(name: str, part: int, row: int) -> bytes:
    return blake2b(f"{part} {row} {name}".encode(), digest_size=DIGEST_BYTES).digest()


def _as_keys(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, DIGEST_BYTES // 8).copy().view(f"V{DIGEST_BYTES}").reshape(-1)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(map(str, names)).items()))


def _pairs(pairs: np.ndarray, n_shown: int) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in pairs[:n_shown])


def _settings(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """All that was set, by dotted name."""
    found: dict[str, Any] = {}
    for role, manifest in manifests.items():
        config = {key: value for key, value in manifest.config.items() if key != "files"}
        found |= _flat(role, config)
        found[f"{role}.code_version"] = manifest.code_version
    for manifest in manifests.values():
        if manifest.kind == "dataset":
            found["licences"] = list(manifest.licences)
            found["tokenizer.fingerprint"] = manifest.tokenizer_fingerprint
    return found


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {
            str(item.get("label", place)): {k: v for k, v in item.items() if k != "label"}
            for place, item in enumerate(value, start=1)
        }
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(f"{prefix}.{key}", item)
    return flat


def _files(documents: Manifest) -> dict[str, str]:
    """The checksum of each file by its name; sources may have files of one name."""
    found: dict[str, str] = {}
    for file in documents.config.get("files", []):
        name = file["name"] if file["name"] not in found else f"{file['source']}:{file['name']}"
        found[name] = file["sha256"]
    return found
