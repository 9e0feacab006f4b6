"""Runs over HTTP, as records of the ledger: lists, events, streams, what changes them.

Used by `jobs.remote_desk` and `jobs.remote_follow`. Invariant: an event stream tells each event
once and in order, however often the connection breaks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from jobs.remote import ConnectionLostError, Remote
from mulm.errors import MulmError, error_classes
from mulm.records import Event, Run
from mulm.runs.standing import Standing

_MOST_EVENTS = 1000
_NOTHING_MORE = 204
_PING = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Begun:
    """What became of the request to start a run."""

    standing: Standing
    is_begun: bool
    """False where it was finished before."""


class RemoteRuns:
    """The runs of one server."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote

    def all(self, kind: str | None = None) -> list[Standing]:
        """All runs, newest first; their configs have names alone."""
        return [_standing(one) for one in self.remote.items("runs", kind=kind)]

    def one(self, run_id: str) -> Standing:
        """A run with its config. Raises NotFoundError."""
        return _standing(self.remote.get(f"runs/{run_id}"))

    def start(self, kind: str, config: Mapping[str, Any]) -> Begun:
        """Begin a run. The same config is the same run, so this can be asked twice."""
        reply = self.remote.post("runs", {"kind": kind, "config": config}, is_repeatable=True)
        return Begun(_standing(reply.json()), is_begun=reply.status_code == httpx.codes.ACCEPTED)

    def ask(self, run_id: str, act: str) -> Standing:
        """`pause`, `resume` or `cancel` a run; asking again changes nothing."""
        return _standing(self.remote.post(f"runs/{run_id}/{act}", is_repeatable=True).json())

    def resume(self, run_id: str, overrides: Sequence[str], *, also_cancelled: bool) -> Standing:
        """As `RunStarter.go_on`."""
        body = {"set": list(overrides), "also_cancelled": also_cancelled}
        reply = self.remote.post(f"runs/{run_id}/resume", body, is_repeatable=not overrides)
        return _standing(reply.json())

    def events(
        self, run_id: str, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[Event]:
        """As `Facts.events`."""
        page = self.remote.get(
            f"runs/{run_id}/events", after=after, limit=min(limit, _MOST_EVENTS),
            kind=sorted(kinds) or None,
        )  # fmt: skip
        return [_event(one) for one in page["data"]]

    def printed(self, run_id: str, n_lines: int) -> str:
        """The last lines that the run's process printed."""
        return self.remote.text(f"runs/{run_id}/logs", lines=max(1, n_lines))

    def stream(self, run_id: str, after: int) -> Generator[Event | None, None, None]:
        """Events behind `after` as they happen, until the server has no more for now.

        None is a sign of life, which comes when nothing has happened for some seconds.

        Raises:
            ConnectionLostError: the connection broke; begin again behind the last event.
            MulmError: what the server says.
        """
        headers = {"Accept": _PING, "Last-Event-ID": str(after)}
        with self.remote.stream(f"runs/{run_id}/events", headers) as reply:
            if reply.status_code == _NOTHING_MORE:
                return
            yield from _told(reply.iter_lines())


def _told(lines: Iterator[str]) -> Iterator[Event | None]:
    """The events of a stream; one that is cut in the middle is not told."""
    name, data = "", list[str]()
    for line in lines:
        if line.startswith(":"):
            yield None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line:
            if data:
                yield _event_or_error(name, "\n".join(data))
            name, data = "", []


def _event_or_error(name: str, text: str) -> Event:
    try:
        values = json.loads(text)
    except ValueError:
        raise ConnectionLostError("the server sent what is no event") from None
    if name != "error" or "error" not in values:
        return _event(values)
    told = values["error"]
    classes = {cls.code: cls for cls in error_classes()}
    raise classes.get(str(told.get("code")), MulmError)(str(told.get("message")))


def _event(values: Mapping[str, Any]) -> Event:
    return Event(
        run_id=str(values["run_id"]),
        seq=int(values["seq"]),
        time_s=float(values["created_at"]),
        kind=str(values["kind"]),
        data=dict(values["data"]),
    )


def _standing(values: Mapping[str, Any]) -> Standing:
    config = values.get("config")
    run = Run(
        id=str(values["id"]),
        kind=str(values["kind"]),
        config=dict(config) if config is not None else {"name": values["name"]},
        phase=values["phase"],
        created_s=float(values["created_at"]),
        updated_s=float(values["updated_at"]),
        result=values["result"],
        error=values["error"],
    )
    return Standing(run, is_living=bool(values["is_living"]))
