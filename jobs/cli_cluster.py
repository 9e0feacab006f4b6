"""`mulm cluster ...`: the running application as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from jobs.cli_verbs import Verbs, with_json
from mulm.home import Home

if TYPE_CHECKING:
    from jobs.cluster_report import ClusterReport


@click.group(cls=Verbs)
def cluster() -> None:
    """The running application: is it up, what does it take, what is it doing."""


@cluster.command("show")
@with_json
def cluster_show(as_json: bool) -> None:
    """Show whether the application is up, since when, its memory, its jobs, whether HTTP answers.

    \b
    Example:  mulm cluster show
              mulm cluster show --json | jq .is_up
    """
    from jobs.cluster_report import report

    found = report(Home.from_env())
    click.echo(json.dumps(asdict(found)) if as_json else "\n".join(_lines(found)))


def _lines(found: ClusterReport) -> list[str]:
    from jobs.dataset_words import age_text, size_text

    if not found.is_up:
        return [f"not up  {found.home}"]
    jobs = "the dashboard does not answer" if found.jobs is None else ", ".join(found.jobs)
    return [
        f"up         {age_text(found.up_s or 0)}, process {found.pid}, {found.home}",
        f"dashboard  {found.dashboard}",
        f"API        {found.api}  {found.http}",
        f"takes      {size_text(found.memory_bytes or 0)} in {found.processes} processes",
        f"runs       {jobs or 'none'}",
    ]
