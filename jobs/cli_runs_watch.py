"""`mulm runs watch`: a run shown live until it ends, whoever started it.

Added to the group in `jobs.cli_runs`. Invariant: watching changes nothing; Ctrl-C ends it alone.
"""

from __future__ import annotations

import click

from jobs.cli_remote import open_remote
from jobs.cli_runs_desk import with_run
from jobs.cli_verbs import open_journey, print_result, shown_progress, with_json
from mulm.home import Home


@click.command("watch")
@with_run
@with_json
def watch(run: str, as_json: bool) -> None:
    """Show RUN live until it ends, and its result; ends as the run does.

    Ctrl-C ends the watching, and the run goes on. `logs -f` prints each event instead.

    \b
    Example:  mulm runs watch demo
              mulm runs watch run_3f2a --url http://10.0.0.5:8000 --key @~/its_key
    """
    from actors.run_desk import RunWatch, open_desk
    from jobs.remote_desk import RemoteDesk
    from jobs.remote_follow import attend, newest_phase

    with open_remote() as remote:
        if remote is not None:
            desk = RemoteDesk(remote)
            found = desk.find(run).run.id
            result = attend(desk.runs, found, newest_phase(desk.runs, found), shown_progress())
        else:
            with open_desk(Home.from_env()) as here, open_journey() as journey:
                found = here.find(run).run.id
                result = journey.attend(found, RunWatch(here, found))
    print_result({"run": found} | result, as_json, "{run} has succeeded")
