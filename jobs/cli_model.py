"""`mulm model ...`: the verbs about models."""

from __future__ import annotations

import json

import click

from jobs.cli_verbs import Verbs, open_journey, print_versions, with_json


@click.group(cls=Verbs)
def model() -> None:
    """Models: list what was trained, plan what may be."""


@model.command("ls")
@with_json
def model_ls(as_json: bool) -> None:
    """List model versions."""
    with open_journey() as journey:
        print_versions(journey.versions("model"), as_json)


@model.command("plan")
@click.option("--size", default="base", show_default=True, help="A preset, such as base.")
@click.option("--vocab-size", type=int, default=32768, show_default=True)
@click.option("--seq-len", type=int, help="Tokens in a row of training (default: up to 1024).")
@with_json
def model_plan(size: str, vocab_size: int, seq_len: int | None, as_json: bool) -> None:
    """Say what a size of model weighs and on which cards it trains.

    \b
    Example:  mulm model plan --size base
    """
    from jobs.model_plan import describe, make_plan

    plan = make_plan(size, vocab_size, seq_len)
    click.echo(json.dumps(plan) if as_json else "\n".join(describe(plan)))
