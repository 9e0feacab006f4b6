"""Models come and go: export for other programs, import from them, and what a model is.

Called by `mulm model ...`. Invariants: everything that can be wrong with names, path, template or
stored files is found before anything is written; the same files imported again are the same
version; while the application is up, its ledger actor alone writes the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from actors.write_fact import write_fact
from jobs.out_path import require_folder
from jobs.progress import Progress
from jobs.push import push_made
from mulm.atomic import require_absent
from mulm.errors import ConfigError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import PREFIX_BY_KIND, Manifest
from mulm.records import Version
from mulm.refs import check_name, parse_ref
from mulm.store import open_store

Result = dict[str, Any]


class Exchange:
    """The models of one installation, shown on a stream.

    `env` says where a hub is (`HF_ENDPOINT`) and how to be let in (`HF_TOKEN`).
    """

    def __init__(self, home: Home, progress: Progress, env: Mapping[str, str]) -> None:
        self._home = home.create()
        self._progress = progress
        self._env = env
        self._store = open_store(home)
        self._facts = Ledger(home.ledger)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._facts.close()

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
        """Write a model for other programs; see `jobs.export`.

        Raises:
            UnknownNameError, ConfigError: no such format or type, or `out` cannot be written.
            ConflictError: `out` exists, or the model is quantised.
            NotFoundError, CorruptError: the model or the folder of `out` is not there, or damaged.
            DataError: the template does not render, or the format has no equal of the model.
        """
        from jobs.export import ExportOrder, export_model
        from mulm.model.stored import require_whole

        order = ExportOrder.of(to, out, dtype, quant, template)
        require_absent(out)
        require_folder(out)
        version, manifest = self._find(model)
        require_whole(self._store, manifest, version.ref)
        with self._progress.timed("export") as say:
            size_bytes = export_model(self._store, version.ref, manifest, order)
            say(f"{version.ref} to {out}, {size_bytes / 1e6:.1f} MB")
        told = {"format": to, "out": str(out), "size_bytes": size_bytes}
        return {"model": version.ref, "model_id": manifest.id, **told}

    def import_model(self, source: str, name: str) -> Result:
        """Take a model from a folder or a hub; it and its tokenizer get the next number of `name`.

        Raises:
            NotFoundError: no such folder or repository, or a file of it is missing.
            DataError: an architecture, tokenizer or file format that does not work here.
            CorruptError: a file is damaged.
            AuthError, UnreachableError, DeadlineError: the hub refuses, is not there, or does not
                answer.
        """
        from jobs.import_model import find_source, store_source

        check_name(name)
        found = find_source(source, self._home, self._env, self._progress)
        with self._progress.timed("import") as say:
            made = store_source(self._store, found, name)
            for manifest in (made.tokenizer, made.model):
                write_fact(self._home, "publish", manifest.kind, name, manifest.id)
            ref = self._refs_of(made.model.id, name)[-1]
            n_parameters = made.described.config.n_parameters
            say(f"{ref}: {n_parameters / 1e6:.1f} M parameters")
        push_made(self._home, {"model_id": made.model.id}, self._progress.note)
        return {
            "model": ref,
            "model_id": made.model.id,
            "tokenizer": self._refs_of(made.tokenizer.id, name)[-1],
            "parameters": n_parameters,
            "licences": list(made.described.licences),
            "chat_format": made.described.tokenizer.chat_format.name,
            "chat_template": made.described.template,
        }

    def point(self, model: str, alias: str) -> Result:
        """Let `name@alias` mean this version of the name; what serves the alias follows.

        Raises:
            NotFoundError: no such version.
            ConfigError: no alias can be called that.
        """
        version, _ = self._find(model)
        found = parse_ref(f"{version.name}@{alias}")
        if found.alias is None:
            raise ConfigError(f"an alias is a word, not the number {alias}", hint="such as live")
        before = self._facts.aliases("model", version.name).get(alias)
        write_fact(self._home, "set_alias", "model", version.name, alias, version.number)
        return {
            "alias": str(found),
            "model": version.ref,
            "model_id": version.manifest_id,
            "before": None if before is None else f"{version.name}@{before}",
        }

    def unpoint(self, model: str, alias: str) -> Result:
        """Let `name@alias` mean nothing.

        Raises:
            NotFoundError: no such alias.
            ConflictError: a deployment follows it.
        """
        name = parse_ref(model).name
        write_fact(self._home, "remove_alias", "model", name, alias)
        return {"removed": f"{name}@{alias}"}

    def show(self, model: str) -> Result:
        """Shape, parameters, files, lineage and aliases of a model."""
        version, manifest = self._find(model)
        aliases = self._facts.aliases("model", version.name)
        parents = {
            role: {"id": parent_id, "refs": self._refs_of(parent_id)}
            for role, parent_id in manifest.parents.items()
        }
        return {
            "model": version.ref,
            "model_id": manifest.id,
            "aliases": sorted(a for a, number in aliases.items() if number == version.number),
            "created_s": version.created_s,
            "shape": json.loads(self._store.read(manifest.blob("config.json"))),
            "counts": manifest.counts,
            "files": {blob.name: blob.size_bytes for blob in manifest.blobs},
            "parents": parents,
            "imported_from": manifest.config.get("imported_from"),
            "licences": list(manifest.licences),
            "tokenizer_fingerprint": manifest.tokenizer_fingerprint,
            "code_version": manifest.code_version,
        }

    def _find(self, model: str) -> tuple[Version, Manifest]:
        version = self._facts.resolve("model", parse_ref(model))
        return version, self._store.load(version.manifest_id)

    def _refs_of(self, manifest_id: str, name: str | None = None) -> list[str]:
        """Every `name@number` of a version, the oldest first; none for what is not published."""
        return [
            version.ref
            for kind in PREFIX_BY_KIND
            for version in self._facts.versions(kind, name)
            if version.manifest_id == manifest_id
        ]
