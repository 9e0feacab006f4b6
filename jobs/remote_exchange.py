"""Models come and go at a server elsewhere: what `mulm model export` and `import` do there.

Called by `mulm model` for `--url`. Invariants: what can be wrong with names, path or files of this
machine is found before the server is asked; what is written here has its name when it is whole, or
does not exist; an import reads of a folder what one on this machine reads.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, BinaryIO

from jobs.export import ExportOrder
from jobs.import_model import named_folder
from jobs.out_path import require_folder
from jobs.packed_folder import unpack
from jobs.progress import Progress
from jobs.remote import Remote
from jobs.remote_files import RemoteFiles, StoredThere
from jobs.remote_follow import start_and_follow
from jobs.weight_parts import WeightParts
from mulm.atomic import atomic_file, atomic_folder, require_absent
from mulm.config import parse_config
from mulm.errors import ConfigError
from mulm.model.exchange_config import ImportConfig
from mulm.model.hf_hub import parse_source
from mulm.model.hf_import import (
    OPTIONAL,
    REQUIRED,
    describe_hf_folder,
    open_hf_weights,
    says_something,
)
from mulm.refs import check_name, parse_ref
from mulm.settings import MAX_UPLOAD_BYTES

Result = dict[str, Any]

_NOT_SENT = "file_not_sent"
_TELL_BYTES = 8 << 20


class RemoteExchange:
    """The models of one server, shown on a stream."""

    def __init__(self, remote: Remote, progress: Progress) -> None:
        self._remote, self._progress = remote, progress
        self._files = RemoteFiles(remote)

    def export(
        self,
        model: str,
        to: str,
        out: Path,
        *,
        dtype: str | None = None,
        quant: str | None = None,
        template: Path | None = None,
    ) -> Result:
        """Have a model written there, and bring it here; see `Exchange.export`.

        The file stays at the server: the same export is the same run, which is done once.

        Raises:
            UnknownNameError, ConfigError: no such format or type, a template, or `out` cannot be
                written.
            ConflictError: `out` exists, or the model is quantised.
            NotFoundError: the model, or the folder of `out`, is not there.
            UnreachableError, CorruptError: the file has not come whole.
            MulmError: what the server says, or what its run failed with.
        """
        ExportOrder.of(to, out, dtype, quant, template)
        if template is not None:
            hint = "leave --chat-template out, or export on the server's own machine"
            raise ConfigError("a server writes the template with which it serves", hint=hint)
        require_absent(out)
        require_folder(out)
        ref = parse_ref(model)
        # Open from here on: a path that cannot be written is no reason to have a server work.
        with _opened(out, is_folder=to == "hf") as target:
            found = self._remote.get(f"models/{ref}")
            given = {"model": found["id"], "to": to, "dtype": dtype, "quant": quant}
            config = {name: value for name, value in given.items() if value is not None}
            made = start_and_follow(self._remote, "model_export", config, self._progress)
            file = self._files.find(str(made["file"]))
            with self._progress.timed("download") as say:
                size_bytes = self._bring(file, target)
                require_absent(out)
                say(f"{found['id']} to {out}, {size_bytes / 1e6:.1f} MB")
        told = {"format": to, "out": str(out), "size_bytes": size_bytes}
        return {"model": found["id"], "model_id": found["manifest_id"], **told}

    def import_model(self, source: str, name: str) -> Result:
        """Have the server take a model of this machine's folder, or of a hub; see `Exchange`.

        The files stay at the server, as uploads; what it holds already is not sent again.

        Raises:
            NotFoundError: no such folder or repository, or a file of it is missing.
            DataError: an architecture, tokenizer or file format that does not work, or a file that
                cannot be read.
            CorruptError: a file is damaged.
            ConfigError: the folder may not be read, holds a tensor that is too large to send, or
                more than a server takes in one import.
            MulmError: what the server says, or what its run failed with.
        """
        check_name(name)
        folder = named_folder(source)
        if folder is None:
            parse_source(source)
            config: dict[str, Any] = {"name": name, "hub": source}
        else:
            config = {"name": name, "files": self._sent(folder, name)}
        return start_and_follow(self._remote, "model_import", config, self._progress)

    def _bring(self, file: StoredThere, target: Path | BinaryIO) -> int:
        """Write what comes into a folder or a file; returns the bytes of it that are kept."""
        chunks = self._files.content(file, self._shown("download", file.size_bytes))
        try:
            if isinstance(target, Path):
                return unpack(chunks, target)
            for chunk in chunks:
                target.write(chunk)
        finally:
            self._progress.clear()
        return file.size_bytes

    def _sent(self, folder: Path, name: str) -> dict[str, str]:
        """The ids of the uploaded files of a folder by name; the folder is judged first."""
        with open_hf_weights(folder, describe_hf_folder(folder)):
            pass
        small = [each for each in (*REQUIRED, *OPTIONAL) if says_something(folder / each)]
        told = self._remote.get("cluster")
        weights = WeightParts(folder, int(told.get("max_upload_bytes", MAX_UPLOAD_BYTES)))
        files = dict.fromkeys((*small, *weights.names), _NOT_SENT)
        parse_config(ImportConfig, {"name": name, "files": files})
        files |= {each: self._send(folder / each) for each in small}
        with closing(weights.files()) as paths:
            files |= {path.name: self._send(path) for path in paths}
        return files

    def _send(self, path: Path) -> str:
        self._progress.note(f"uploading {path.name}")
        return self._files.send(path)

    def _shown(self, stage: str, size_bytes: int) -> Callable[[int], None]:
        told_bytes = 0

        def note(done_bytes: int) -> None:
            nonlocal told_bytes
            if done_bytes - told_bytes < _TELL_BYTES and done_bytes < size_bytes:
                return
            told_bytes = done_bytes
            told = {"stage": stage, "done": done_bytes, "total": size_bytes, "unit": "B"}
            self._progress.event("progress", told)

        return note


def _opened(out: Path, *, is_folder: bool) -> AbstractContextManager[Path | BinaryIO]:
    """What takes the name `out` once it is whole. Raises ConfigError, ConflictError."""
    return atomic_folder(out) if is_folder else atomic_file(out)
