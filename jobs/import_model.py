"""Import of one model: from a folder in Hugging Face's layout, or by its id on a hub.

Called by `jobs.exchange`. Invariant: architecture and tokenizer are judged before weights are
fetched or read; what a model came from stands in its manifest by checksum, never by path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.progress import Progress
from mulm import __version__
from mulm.checksum import hash_file
from mulm.home import Home
from mulm.manifest import Manifest
from mulm.model.hf_hub import Hub, parse_source
from mulm.model.hf_import import (
    INDEX,
    OPTIONAL,
    REQUIRED,
    Described,
    describe_hf_folder,
    indexed_files,
    naming_unreadable,
    open_hf_weights,
    require_files,
    weight_files,
)
from mulm.model.model_files import store_model_files
from mulm.store import Store


@dataclass(frozen=True, slots=True)
class Source:
    """A folder on this machine, and what a manifest says of where it is from."""

    folder: Path
    origin: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Imported:
    """The two versions that an import makes, and what the small files said."""

    model: Manifest
    tokenizer: Manifest
    described: Described


def find_source(source: str, home: Home, env: Mapping[str, str], progress: Progress) -> Source:
    """A folder, or what is fetched from a hub.

    Raises:
        NotFoundError: neither a folder nor a model on the hub, or a file is missing.
        DataError: an architecture, tokenizer or file format that does not work here.
        ConfigError: the folder may not be read.
        AuthError, ConflictError, DeadlineError, CorruptError: see `Hub`.
    """
    folder = named_folder(source)
    if folder is not None:
        return Source(folder, {"kind": "folder"})
    repository, revision = parse_source(source)

    def report(file: str, done_bytes: int, size_bytes: int) -> None:
        stage = {"stage": file, "done": done_bytes, "total": size_bytes, "unit": "B"}
        progress.event("progress", stage)

    with progress.timed("download") as say:
        found = fetch_from_hub(Hub.from_env(env), repository, revision, home, report)
        say(f"{repository} at {found.origin['commit'][:12]}")
    return found


def named_folder(source: str) -> Path | None:
    """The folder of this machine that a source names, which has all that is needed; else None.

    Raises:
        NotFoundError, DataError: a file is missing, or the weights are a pickle.
        ConfigError: the folder may not be read.
    """
    folder = _expanded(source)
    with naming_unreadable(folder):
        if not folder.is_dir():
            return None
        require_files({path.name for path in folder.iterdir()}, source)
    return folder


def store_source(store: Store, source: Source, name: str) -> Imported:
    """Put the model and its tokenizer into the store; the same files again are the same versions.

    Raises:
        NotFoundError, CorruptError, DataError, ConfigError: see `mulm.model.hf_import`.
        NoSpaceError: the disk is full.
    """
    described = describe_hf_folder(source.folder)
    with open_hf_weights(source.folder, described) as files:
        names = weight_files(source.folder)
        sums = {file: hash_file(source.folder / file) for file in names}
        origin = {**source.origin, "weights_sha256": sums}
        tokenizer = _store_tokenizer(store, described)
        model = store_model_files(
            store,
            files,
            config={"name": name, "imported_from": origin},
            parents={"tokenizer": tokenizer.id},
            licences=described.licences,
            card=described.card,
        )
    return Imported(model, tokenizer, described)


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # `~nobody`: there is no such folder
        return Path(source)


def _store_tokenizer(store: Store, described: Described) -> Manifest:
    """A version of its own, so that datasets can be built with it."""
    manifest = Manifest(
        kind="tokenizer",
        code_version=__version__,
        config={},
        tokenizer_fingerprint=described.tokenizer.fingerprint,
        licences=described.licences,
        counts={"vocab_size": described.tokenizer.vocab_size},
        blobs=(store.put("tokenizer.json", described.tokenizer.to_bytes()),),
    )
    store.save(manifest)
    return manifest


def fetch_from_hub(
    hub: Hub,
    repository: str,
    revision: str,
    home: Home,
    report: Callable[[str, int, int], None],
) -> Source:
    """Bring a model's files here; `report` hears of each file, its bytes so far and all of them.

    Raises:
        NotFoundError, DataError, AuthError, DeadlineError, CorruptError: see `find_source`.
    """
    snapshot = hub.snapshot(repository, revision)
    require_files(snapshot.files.keys(), repository)
    folder = home.hub / repository.replace("/", "--") / snapshot.commit
    small = {*REQUIRED, *(snapshot.files.keys() & {*OPTIONAL, INDEX})}
    hub.download(snapshot, small, folder, report)
    describe_hf_folder(folder)
    hub.download(snapshot, indexed_files(folder), folder, report)
    return Source(folder, {"kind": "hub", "repository": repository, "commit": snapshot.commit})
