"""`mulm cluster ...`: the running application as a whole."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from jobs.cli_remote import open_api, with_server
from jobs.cli_verbs import Verbs, print_result, say, with_json
from mulm.errors import DeadlineError
from mulm.home import Home

if TYPE_CHECKING:
    from jobs.cluster_report import ClusterReport
    from jobs.remote import Remote

_GONE_WITHIN_S = 90.0
_POLL_S = 0.5


@click.group(cls=Verbs)
def cluster() -> None:
    """The running application: is it up, what does it take, what is it doing.

    \b
    Example:  mulm cluster show
    """


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
    """List the machines of the application: which is the head, which are gone, what each gives.

    A line each: address, name, role, trust, CPUs, GPUs, memory; the line to the head as it was
    measured when the machine joined (from it, to it, there and back); for how long it has been
    there; islands, training workers and engines on it.

    \b
    Example:  mulm cluster nodes
              mulm cluster nodes --url http://10.0.0.5:8000 --key @~/its_key
    """
    with open_api() as remote:
        nodes = _nodes(remote)
    if as_json:
        click.echo(json.dumps(nodes))
        return
    for line in node_lines(nodes):
        click.echo(line)


@cluster.command("leave")
@click.argument("node", metavar="NODE")
@with_server
@with_json
def cluster_leave(node: str, as_json: bool) -> None:
    """Let machine NODE go, as `mulm leave` there does: by its name, its address, or its id.

    Training there ends after the step that is under way, and what it has learned is handed to the
    others. The machine does not come back until `mulm join` is said there again.

    \b
    Example:  mulm cluster leave laptop
    """
    with open_api() as remote:
        found = remote.post(f"cluster/nodes/{quote(node, safe='')}/leave").json()
        name = found["name"] or found["address"]
        say(f"{name} is told to leave")
        end_s = time.monotonic() + _GONE_WITHIN_S
        while any(n["id"] == found["id"] and n["is_alive"] for n in _nodes(remote)):
            if time.monotonic() > end_s:
                raise DeadlineError(
                    f"{name} has not left within {_GONE_WITHIN_S:.0f} s",
                    hint="`mulm leave` there, or switch it off: the others go on",
                )
            time.sleep(_POLL_S)
    print_result({"id": found["id"], "name": name, "has_left": True}, as_json, "{name} has left")


def _nodes(remote: Remote) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = remote.get("cluster/nodes")["data"]
    return nodes


def node_lines(
    nodes: Sequence[Mapping[str, Any]], clock: Callable[[], float] = time.time
) -> list[str]:
    """A line for each machine: what it has, how its line to the head is, since when, what it does.

    Those that are gone are told by their place alone.
    """
    from jobs.dataset_words import one_line, size_text, table_lines

    return table_lines(
        (
            one_line(str(node["address"])),
            one_line(str(node["name"] or "")),
            ("head" if node["is_head"] else "worker") if node["is_alive"] else "gone",
            one_line(str(node["trust"] or "")),
            f"{node['cpus']:g} CPUs",
            one_line(_gpu_text(node)) if node["gpus"] else "",
            size_text(node["memory_bytes"]),
            _link_text(node),
            _since_text(node, clock()),
            one_line(_work_text(node)),
        )
        for node in nodes
    )


def _gpu_text(node: Mapping[str, Any]) -> str:
    memory = f" {node['vram_gib']:g} GiB" if node["vram_gib"] else ""
    return f"{node['gpus']:g} GPUs {node['gpu'] or ''}{memory}"


def _link_text(node: Mapping[str, Any]) -> str:
    if node["down_mbit"] is None or node["up_mbit"] is None:
        return ""
    return f"{node['down_mbit']:g}/{node['up_mbit']:g} Mbit/s, {node['rtt_ms'] or 0:g} ms"


def _since_text(node: Mapping[str, Any], now_s: float) -> str:
    from jobs.dataset_words import age_text

    if node["since_s"] is None or not node["is_alive"]:
        return ""
    return f"for {age_text(max(0.0, now_s - node['since_s']))}"


def _work_text(node: Mapping[str, Any]) -> str:
    found = Counter(f"{told['kind']} {told['name']}".strip() for told in node["work"])
    return ", ".join(f"{n} x {what}" if n > 1 else what for what, n in sorted(found.items()))


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
