"""`mulm cluster ...`: the running application as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_remote import open_api, with_server
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


@cluster.command("nodes")
@with_server
@with_json
def cluster_nodes(as_json: bool) -> None:
    """List the machines of the application: which is the head, which are gone, what each has.

    \b
    Example:  mulm cluster nodes
              mulm cluster nodes --url http://10.0.0.5:8000 --key @~/its_key
    """
    with open_api() as remote:
        nodes = remote.get("cluster/nodes")["data"]
    if as_json:
        click.echo(json.dumps(nodes))
        return
    for line in node_lines(nodes):
        click.echo(line)


def node_lines(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each machine."""
    from jobs.dataset_words import one_line, size_text, table_lines

    return table_lines(
        (
            one_line(str(node["address"])),
            one_line(str(node["labels"].get("mulm.name", ""))),
            ("head" if node["is_head"] else "worker") if node["is_alive"] else "gone",
            f"{node['cpus']:g} CPUs",
            one_line(_gpu_text(node)) if node["gpus"] else "",
            size_text(node["memory_bytes"]),
        )
        for node in nodes
    )


def _gpu_text(node: Mapping[str, Any]) -> str:
    labels = node["labels"]
    name = labels.get("mulm.gpu") or node["gpu"] or ""
    memory = f" {labels['mulm.vram_gib']} GiB" if "mulm.vram_gib" in labels else ""
    return f"{node['gpus']:g} GPUs {name}{memory}"


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
