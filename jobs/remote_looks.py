"""The looks into dataset versions of a server elsewhere.

Used by the verbs of `mulm data` with `--url`. Invariant: what the server tells is told as the same
verb tells it on the server's own machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import quote

from jobs.dataset_looks import Counted, is_packed
from jobs.remote import Remote
from mulm.data.stats import Bar, Stats
from mulm.data.views import PreviewOrder
from mulm.errors import ConfigError, UnknownNameError, nearest
from mulm.lineage import Lineage, Relative
from mulm.refs import parse_ref

_MOST_SHOWN, _MOST_CHARS = 100, 100_000
"""Of one answer of the API."""


class RemoteLooks:
    """`Looks` over the control API."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def preview(self, ref: str, order: PreviewOrder) -> list[dict[str, Any]]:
        """See `Looks`; of a document at most as much text as the API tells."""
        told = self._get(
            ref, "preview", n=_within_limit(order.n), split=order.split, source=order.source,
            grep=order.grep, seed=order.seed, tokens=order.with_tokens or order.with_mask,
            chars=min(order.chars or _MOST_CHARS, _MOST_CHARS),
        )  # fmt: skip
        documents: list[dict[str, Any]] = told["data"]
        return documents

    def stats(self, ref: str) -> Counted:
        """See `Looks`."""
        told = self._get(ref, "stats")
        version = self._remote.get(f"datasets/{told['dataset']}")
        config = version["config"]
        return Counted(version["id"], version["manifest_id"], is_packed(config), _stats(told))

    def rejects(self, ref: str, reason: str | None, n: int, seed: int) -> dict[str, Any]:
        """See `Looks`."""
        told = self._get(ref, "rejects", n=_within_limit(n), seed=seed)
        if reason is not None:
            if reason not in told["reasons"]:
                raise UnknownNameError(
                    f"nothing was rejected for {reason!r}", hint=nearest(reason, told["reasons"])
                )
            told["samples"] = [one for one in told["samples"] if one["decision"] == reason]
        return told

    def diff(self, before: str, after: str, n: int) -> dict[str, Any]:
        """See `Looks`."""
        parse_ref(after)
        return self._get(before, "diff", other=after, n=_within_limit(n))

    def lineage(self, ref: str) -> Lineage:
        """See `Looks`."""
        told = self._get(ref, "lineage")
        return Lineage(
            told["id"], told["kind"], tuple(told["refs"]),
            tuple(map(_relative, told["ancestors"])), tuple(map(_relative, told["descendants"])),
        )  # fmt: skip

    def _get(self, ref: str, look: str, **params: Any) -> dict[str, Any]:
        path = f"datasets/{quote(str(parse_ref(ref)), safe='@')}/{look}"
        told: dict[str, Any] = self._remote.get(path, **params)
        del told["object"]
        return told


def _within_limit(n: int) -> int:
    if n > _MOST_SHOWN:
        raise ConfigError(f"a server tells {_MOST_SHOWN} at a time", hint=f"-n {_MOST_SHOWN}")
    return n


def _stats(told: Mapping[str, Any]) -> Stats:
    values = {field.name: told[field.name] for field in fields(Stats)}
    bars = {name: tuple(Bar(**bar) for bar in value) for name, value in values.items()
            if isinstance(value, list)}  # fmt: skip
    return Stats(**(values | bars))


def _relative(told: Mapping[str, Any]) -> Relative:
    return Relative(**{**told, "refs": tuple(told["refs"])})
