"""Versions of a server elsewhere, told as those of this machine are.

Called by `mulm model`, `mulm data` and `mulm tokenizer` for `--url`.
"""

from __future__ import annotations

import re
from typing import Any

from jobs.remote import Remote
from mulm.errors import ConfigError
from mulm.manifest import Kind
from mulm.records import Version
from mulm.refs import check_alias, parse_ref

Result = dict[str, Any]

_BYTES = re.compile(r"bytes:(\\x[0-9a-f]{2})+")
"""How the API spells a token that is no UTF-8 by itself."""
_HALF = "\ufffd"


class RemoteVersions:
    """The versions of one server."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def all(self, kind: Kind, name: str | None = None) -> list[Version]:
        """All versions of a kind, or of one name, oldest first."""
        found = [_version(kind, one) for one in self._remote.items(f"{kind}s", name=name)]
        return found[::-1]

    def show(self, kind: Kind, ref: str) -> Result:
        """One version: counts, files, lineage, licences, aliases. Raises NotFoundError."""
        found = self._remote.get(f"{kind}s/{parse_ref(ref)}")
        return {
            kind: found["id"],
            f"{kind}_id": found["manifest_id"],
            "aliases": found["aliases"],
            "created_s": found["created_at"],
            "config": found["config"],
            "counts": found["counts"],
            "files": {one["name"]: one["size_bytes"] for one in found["files"]},
            "parents": found["parents"],
            "licences": found["licences"],
            "code_version": found["code_version"],
        }

    def tokenizer(self, ref: str) -> Result:
        """A tokenizer: its size, its special tokens, what it was made from and for."""
        told: Result = self._remote.get(f"tokenizers/{parse_ref(ref)}/vocabulary")
        relatives = self._remote.get(f"tokenizers/{told['tokenizer']}/lineage")
        del told["object"]
        return told | {
            "parents": _nearest(relatives["ancestors"]),
            "used_by": _nearest(relatives["descendants"]),
        }

    def pieces(self, ref: str, text: str) -> list[tuple[int, str]]:
        """Id and text of each token of a text; what is no text by itself is U+FFFD."""
        path = f"tokenizers/{parse_ref(ref)}/encode"
        body = {"texts": [text], "with_tokens": True}
        [told] = self._remote.post(path, body, is_repeatable=True).json()["data"]
        shown = [_HALF if _BYTES.fullmatch(name) else name for name in told["tokens"]]
        return list(zip(told["ids"], shown, strict=True))

    def point(self, model: str, alias: str) -> Result:
        """Let `name@alias` mean a model version; what serves the alias follows.

        Raises:
            NotFoundError: no such version.
            ConfigError: no alias can be called that.
            ConflictError: somebody else has moved it meanwhile.
        """
        found = self._remote.get(f"models/{parse_ref(model)}")
        name, number = found["name"], found["version"]
        target = parse_ref(f"{name}@{alias}")
        if target.alias is None:
            raise ConfigError(f"an alias is a word, not the number {alias}", hint="such as live")
        aliases = {
            one["alias"]: one["version"]
            for one in self._remote.get(f"models/{name}/aliases")["data"]
        }
        before = aliases.get(alias)
        seen = {"If-None-Match": "*"} if before is None else {"If-Match": f'"{before}"'}
        if before != number:
            self._remote.put(f"models/{name}/aliases/{alias}", {"version": number}, seen)
        return {
            "alias": str(target),
            "model": found["id"],
            "model_id": found["manifest_id"],
            "before": None if before is None else f"{name}@{before}",
        }

    def unpoint(self, model: str, alias: str) -> Result:
        """Let `name@alias` mean nothing.

        Raises:
            NotFoundError: no such alias.
            ConflictError: a deployment follows it.
        """
        name = parse_ref(model).name
        self._remote.delete(f"models/{name}/aliases/{check_alias(alias)}")
        return {"removed": f"{name}@{alias}"}


def description_lines(kind: Kind, told: Result) -> list[str]:
    """What `show` says to a person."""
    aliases = f" ({', '.join(told['aliases'])})" if told["aliases"] else ""
    counts = ", ".join(f"{value:,} {key}" for key, value in told["counts"].items())
    lines = [f"{told[kind]}{aliases}  {told[f'{kind}_id']}", f"counts     {counts}"]
    lines += [f"file       {name}  {size:,} bytes" for name, size in told["files"].items()]
    for role, parent in told["parents"].items():
        known = f"{' = '.join(parent['refs'])}  " if parent["refs"] else ""
        lines.append(f"made from  {role} {known}{parent['id']}")
    return [*lines, f"licences   {', '.join(told['licences']) or 'not stated'}"]


def _nearest(relatives: list[dict[str, Any]]) -> list[Result]:
    """Those without another one between."""
    near = [one for one in relatives if one["distance"] == 1]
    return [{name: one[name] for name in ("role", "id", "refs")} for one in near]


def _version(kind: Kind, values: dict[str, Any]) -> Version:
    created_s = float(values["created_at"])
    return Version(kind, values["name"], values["version"], values["manifest_id"], created_s)
