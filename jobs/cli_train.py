"""`mulm train`: a dataset to a model, or the plan of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from jobs.cli_remote import chosen_server, done_elsewhere, with_server
from jobs.cli_verbs import Number, open_journey, print_result, with_json, with_overrides
from mulm.config import load_config
from mulm.errors import ConfigError
from mulm.home import Home
from mulm.train.config import TrainConfig


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@with_overrides
@click.option("--dry-run", is_flag=True, help="Check everything and tell the plan; train nothing.")
@click.option(
    "--measure/--no-measure", default=True, help="With --dry-run: run some rows to learn the speed."
)
@click.option("--watts", type=Number(), help="With --dry-run: what each GPU or machine draws.")
@click.option(
    "--price-per-kwh",
    type=Number(),
    envvar="MULM_PRICE_PER_KWH",
    help="With --dry-run: of energy, in any currency.",
)
@with_server
@with_json
def train(
    config: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    measure: bool,
    watts: float | None,
    price_per_kwh: float | None,
    as_json: bool,
) -> None:
    """Train the model that CONFIG (a YAML file) describes.

    The same config is the same run: finished, it is not repeated; stopped or killed, it goes on
    from its newest checkpoint. Ctrl-C pauses it after a checkpoint where this very process trains;
    with the application up, or at a server elsewhere (--url), it ends the watching only.

    \b
    Example:  mulm train examples/demo.yaml
              mulm train examples/demo.yaml --set steps=200 --set name=quick
              mulm train examples/demo.yaml --dry-run
              mulm train examples/demo.yaml --dry-run --watts 65 --price-per-kwh 0.30
              mulm train demo.yaml --url http://10.0.0.5:8000 --key @~/its_key
    """
    if dry_run and chosen_server() is not None:
        raise ConfigError("--dry-run plans for this machine", hint="leave --url and MULM_URL away")
    if dry_run:
        _print_preview(config, overrides, as_json, measure, watts, price_per_kwh)
        return
    found = done_elsewhere("train", lambda: load_config(TrainConfig, config, overrides))
    if found is None:
        with open_journey() as journey:
            found = journey.train(config, overrides)
    result = found
    (judged,) = (name for name in result if name.startswith("validation_"))
    words = judged.removeprefix("validation_").replace("_", " ")
    print_result(result, as_json, f"{{model}}: {{{judged}:.3f}} {words}, {{parameters}} parameters")


def _print_preview(
    config_path: Path,
    overrides: tuple[str, ...],
    as_json: bool,
    is_measured: bool,
    watts: float | None,
    price_per_kwh: float | None,
) -> None:
    from mulm.ledger import Ledger
    from mulm.store import Store
    from mulm.train.estimate import describe_estimate, estimate
    from mulm.train.preview import describe, preview, work_of
    from mulm.train.sync.outlook import outlook

    home, config = Home.from_env().create(), load_config(TrainConfig, config_path, overrides)
    with Ledger(home.ledger) as facts:
        plan = preview(config, Store(home.store), facts)
    work = work_of(plan)
    told = estimate(work, is_measured=is_measured, watts=watts, price_per_kwh=price_per_kwh)
    sync = outlook(work.config, work.shape, machines=None)
    if as_json:
        whole = asdict(plan) | {"estimate": asdict(told), "sync": asdict(sync)}
        click.echo(json.dumps(whole))
        return
    click.echo(
        "\n".join([*describe(plan), f"workers agree by {sync.text}", *describe_estimate(told)])
    )
