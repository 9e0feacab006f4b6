"""`mulm model ...`: the verbs about models."""

from __future__ import annotations

import click

from jobs.cli_verbs import Verbs, open_journey, print_versions, with_json


@click.group(cls=Verbs)
def model() -> None:
    """Models: list what was trained."""


@model.command("ls")
@with_json
def model_ls(as_json: bool) -> None:
    """List model versions."""
    with open_journey() as journey:
        print_versions(journey.versions("model"), as_json)
