"""`mulm ps`: what is served, by which engines, and how busy they are."""

from __future__ import annotations

import json

import click

from jobs.cli_remote import open_api, with_server
from jobs.cli_verbs import say, with_json


@click.command()
@with_server
@with_json
def ps(as_json: bool) -> None:
    """List what is served: deployments, their engines, devices, speed and queues.

    \b
    Example:  mulm ps
              mulm ps --json
              mulm ps --url http://10.0.0.5:8000 --key @~/its_key
    """
    from jobs.ps import deployments, listing_lines

    with open_api() as remote:
        found = deployments(remote)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found:
        say("nothing is served: `mulm serve NAME`")
    for line in listing_lines(found):
        click.echo(line)
