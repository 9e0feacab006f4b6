"""What the verbs of `mulm runs` share: the desk of runs, here or of a server elsewhere.

Used by `jobs.cli_runs` and `jobs.cli_runs_acts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.cli_complete import run_names
from jobs.cli_remote import open_remote, with_server
from mulm.home import Home

if TYPE_CHECKING:
    from actors.run_desk import RunDesk
    from mulm.records import Event

F = TypeVar("F", bound=Callable[..., Any])


def with_run(command: F) -> F:
    """The argument RUN, and which server it is of."""
    run = click.argument("run", metavar="RUN", shell_complete=run_names)
    return run(with_server(command))


@contextmanager
def open_runs() -> Iterator[RunDesk]:
    """The runs of the chosen server, or of this machine's installation."""
    from actors.run_desk import open_desk
    from jobs.remote_desk import RemoteDesk

    with open_remote() as remote:
        if remote is not None:
            yield RemoteDesk(remote)
            return
        with open_desk(Home.from_env()) as desk:
            yield desk


def events_of(
    desk: RunDesk, run_id: str, limit: int | None, follow: bool, *, with_all: bool
) -> Iterator[Event]:
    """The events of a run, and on until it ends; of one elsewhere by its stream."""
    from jobs.remote_desk import RemoteDesk
    from jobs.remote_follow import happening
    from jobs.run_log import run_log
    from jobs.run_words import QUIET

    is_streamed = follow and isinstance(desk, RemoteDesk)
    after = 0
    for event in run_log(desk, run_id, limit, follow and not is_streamed, with_all=with_all):
        after = event.seq
        yield event
    if is_streamed:
        assert isinstance(desk, RemoteDesk)
        for event in happening(desk.runs, run_id, after):
            if with_all or event.kind not in QUIET:
                yield event


def elsewhere(desk: RunDesk, told: dict[str, Any]) -> dict[str, Any]:
    """What was told about a run: of one elsewhere no folder of this machine."""
    from jobs.remote_desk import RemoteDesk

    return told | {"folder": desk.runs.remote.url} if isinstance(desk, RemoteDesk) else told
