"""Files of a dataset on a hub: `hf://datasets/ORG/NAME[@REVISION][/path, folder or glob]`.

Called by `remote`; `mulm.model.hf_hub` does the asking. Without a path the Parquet files are taken,
or where there are none those of other known formats. Invariants: the files are those of one commit,
each with the checksum that the hub promises; where the revision is a commit and its files are here,
the hub is not asked.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from mulm.atomic import make_folder, write_atomic
from mulm.config import canonical_json
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.remote_names import chosen, is_portable, key_of, split_pattern
from mulm.errors import ConfigError, DeadlineError
from mulm.model.hf_hub import Hub, RemoteFile, Report, Snapshot

_PATH = re.compile(
    r"hf://datasets/(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>~parquet|refs/convert/parquet|[A-Za-z0-9][\w.-]{0,127}))?"
    r"(?:/(?P<path>.*))?",
    re.ASCII,
)
_CONVERTED = "refs%2Fconvert%2Fparquet"
"""The branch where a hub keeps every dataset as Parquet, also called `~parquet`."""

_NO_DATA = frozenset({"README.md", "dataset_infos.json"})
"""What every repository has beside its data."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_hub(spec: SourceSpec, folder: Path, emit: Report, hub: Hub) -> list[SourceFile]:
    """Bring the files, or find them. See `remote.fetch` for what is raised."""
    found = _PATH.fullmatch(spec.path)
    if not found:
        raise ConfigError(
            f"{spec.path!r} is no dataset of a hub",
            hint="write hf://datasets/ORG/NAME, with @REVISION and /path/*.parquet if you like",
        )
    revision = found["revision"] or "main"
    if not revision.isascii() or revision in ("~parquet", "refs/convert/parquet"):
        revision = _CONVERTED
    snapshot = _snapshot(hub, f"datasets/{found['repository']}", revision, folder)
    names = _names(snapshot, found["path"] or "", spec)
    return [SourceFile(name, _bring(hub, snapshot, name, folder, emit)) for name in names]


def _snapshot(hub: Hub, repository: str, revision: str, folder: Path) -> Snapshot:
    """What a commit holds never changes: it is asked for once."""
    is_commit = bool(_COMMIT.fullmatch(revision))
    listing = folder / f"{key_of(hub.endpoint, repository, revision)}.json"
    if is_commit and listing.is_file():
        held = json.loads(listing.read_bytes())
        files = {name: RemoteFile(*facts) for name, facts in held.items()}
        return Snapshot(repository, revision, files)
    try:
        snapshot = hub.snapshot(repository, revision)
    except DeadlineError as error:
        hint = "name a commit (@ and 40 hex digits), and builds after the first need no network"
        raise DeadlineError(error.message, hint=hint) from None
    if is_commit:
        facts = {n: [f.size_bytes, f.sha256, f.git_sha1] for n, f in snapshot.files.items()}
        write_atomic(listing, canonical_json(facts))
    return snapshot


def _names(snapshot: Snapshot, path: str, spec: SourceSpec) -> list[str]:
    if path in snapshot.files and is_portable(path):
        return [path]
    root, pattern = split_pattern(path)
    if root and not pattern:
        root = f"{root.rstrip('/')}/"
    below = [name.removeprefix(root) for name in snapshot.files if name.startswith(root)]
    if not pattern:
        below = [name for name in below if name not in _NO_DATA]
    names = chosen(below, pattern, spec.type, spec.path)
    parquet = [name for name in names if name.endswith(".parquet")]
    return [root + name for name in (parquet if parquet and not pattern else names)]


def _bring(hub: Hub, snapshot: Snapshot, name: str, folder: Path, emit: Report) -> Path:
    promised = snapshot.files[name]
    # By content: a new commit that leaves a file as it was brings nothing.
    own = folder / key_of(promised.sha256 or promised.git_sha1, promised.size_bytes)
    path = own / name
    if not promised.matches(path):
        make_folder(path.parent)
        hub.download(snapshot, [name], own, emit)
    return path
