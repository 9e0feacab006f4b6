"""`mulm compress`: a model to a smaller one."""

from __future__ import annotations

from typing import Any

import click

from jobs.cli_complete import names_of
from jobs.cli_remote import done_elsewhere, with_server
from jobs.cli_verbs import Number, open_journey, print_result, with_json, with_overrides
from mulm.config import load_config
from mulm.model.compress_config import FORMATS, CompressConfig


@click.command()
@click.argument("model", shell_complete=names_of("model"))
@click.option("--to", required=True, metavar="FORMAT", help=f"{', '.join(FORMATS)}.")
@click.option("--name", help="Publish as this; NAME-FORMAT if not given.")
@click.option("--keep", type=Number(), help="pruned: the share of parameters that stays; 0.5.")
@with_overrides
@with_server
@with_json
def compress(
    model: str,
    to: str,
    name: str | None,
    keep: float | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make MODEL smaller, as a new model that is evaluated and served like any other.

    int8 and int4 round its weights; pruned cuts out the layers, heads and feed-forward units that
    matter least.

    \b
    Example:  mulm compress demo --to int4
              mulm compress demo --to pruned --keep 0.5 --name demo-half
              mulm compress demo --to pruned --set sample_tokens=65536
    """
    values: dict[str, Any] = {"model": model, "to": to, "name": name, "keep": keep}
    config = load_config(CompressConfig, values, overrides)
    result = done_elsewhere("compress", lambda: config)
    if result is None:
        with open_journey() as journey:
            result = journey.compress(config)
    print_result(
        result,
        as_json,
        "{model}: {parameters} parameters in {size_bytes} bytes",
    )
