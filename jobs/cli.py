"""The `mulm` command: a thin layer of verbs over `jobs.journey`.

Results go to stdout (one JSON object with `--json`), progress and errors to stderr. A mistake
ends with one line, a hint and the exit code of its error class (`jobs.exit_codes`).
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import click

import mulm
from jobs.cli_backup import backup, restore
from jobs.cli_compress import compress
from jobs.cli_config import config
from jobs.cli_data import data, data_gc
from jobs.cli_doctor import doctor
from jobs.cli_eval import evaluate
from jobs.cli_model import model
from jobs.cli_runs import runs
from jobs.cli_talk import chat, generate
from jobs.cli_verbs import Verbs, open_journey, print_result, with_json, with_overrides
from jobs.exit_codes import exit_code
from jobs.progress import Progress
from mulm.config import load_config
from mulm.errors import ConfigError, MulmError, StoppedError
from mulm.home import Home
from mulm.terminal_text import harmless


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(mulm.__version__, prog_name="mulm")
def cli() -> None:
    """Build, train, serve and keep teaching a micro language model of your own.

    \b
    mulm up                                 start the application on this machine
    mulm data build examples/sample.yaml    text to a dataset version
    mulm train examples/demo.yaml           dataset to a model
    mulm runs ls                            what runs and ran, and how far it is
    mulm serve demo                         model to an HTTP API
    mulm chat                               talk to it
    mulm generate --file prompts.jsonl      have it answer a file
    mulm down                               stop everything
    """


cli.add_command(backup)
cli.add_command(chat)
cli.add_command(compress)
cli.add_command(config)
cli.add_command(data)
cli.add_command(doctor)
cli.add_command(evaluate)
cli.add_command(data_gc, "gc")
cli.add_command(generate)
cli.add_command(model)
cli.add_command(restore)
cli.add_command(runs)


@cli.command()
@with_json
def up(as_json: bool) -> None:
    """Start the local Ray application (loopback only).

    \b
    Example:  mulm up
              MULM_HTTP_PORT=8001 mulm up
    """
    from jobs.up import start
    from mulm.settings import Settings

    info = start(Home.from_env(), Settings.from_env())
    facts = {
        "dashboard": info.dashboard_url,
        "api": info.api_url,
        "home": str(Home.from_env().root),
    }
    print_result(facts, as_json, "up: dashboard {dashboard}, API {api}")


@cli.command()
@with_json
def down(as_json: bool) -> None:
    """Stop the application and everything it started; harmless when it is down."""
    from jobs.up import stop

    was_up = stop(Home.from_env())
    print_result({"was_up": was_up}, as_json, "down" if was_up else "it was not up")


@cli.command()
@with_json
def env(as_json: bool) -> None:
    """Print shell lines that point `ray`, and OpenAI clients, at the running application.

    Secrets are named by their files, never printed.

    \b
    Example:  eval "$(mulm env)"
              ray job submit --working-dir . -- python -m jobs.train --config examples/demo.yaml
    """
    from actors.cluster import connect, ray_env

    home = Home.from_env()
    info = connect(home)
    variables = {"RAY_API_SERVER_ADDRESS": info.dashboard_url} | ray_env(home)
    variables |= {"OPENAI_BASE_URL": f"{info.api_url}/v1"}
    if as_json:
        click.echo(json.dumps(variables | {"key_file": str(home.api_key)}))
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    click.echo(f'export OPENAI_API_KEY="$(cat {shlex.quote(str(home.api_key))})"')


@cli.command()
@click.argument("config", type=click.Path(path_type=Path))
@with_overrides
@click.option("--dry-run", is_flag=True, help="Check everything and tell the plan; train nothing.")
@click.option(
    "--measure/--no-measure", default=True, help="With --dry-run: run some rows to learn the speed."
)
@click.option("--watts", type=float, help="With --dry-run: what each GPU or machine draws.")
@click.option(
    "--price-per-kwh",
    type=float,
    envvar="MULM_PRICE_PER_KWH",
    help="With --dry-run: of energy, in any currency.",
)
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
    from its newest checkpoint. Ctrl-C stops it after a checkpoint.

    \b
    Example:  mulm train examples/demo.yaml
              mulm train examples/demo.yaml --set steps=200 --set name=quick
              mulm train examples/demo.yaml --dry-run
              mulm train examples/demo.yaml --dry-run --watts 65 --price-per-kwh 0.30
    """
    if dry_run:
        _print_preview(config, overrides, as_json, measure, watts, price_per_kwh)
        return
    with open_journey() as journey:
        result = journey.train(config, overrides)
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
    from mulm.train.config import TrainConfig
    from mulm.train.estimate import describe_estimate, estimate
    from mulm.train.preview import describe, preview, work_of

    home, config = Home.from_env().create(), load_config(TrainConfig, config_path, overrides)
    with Ledger(home.ledger) as facts:
        plan = preview(config, Store(home.store), facts)
    told = estimate(
        work_of(plan), is_measured=is_measured, watts=watts, price_per_kwh=price_per_kwh
    )
    if as_json:
        click.echo(json.dumps(asdict(plan) | {"estimate": asdict(told)}))
        return
    click.echo("\n".join([*describe(plan), *describe_estimate(told)]))


@cli.command()
@click.argument("model")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    help="Beside it, by its name or NAME=REF; several are possible.",
)
@click.option("--min-replicas", type=int, help="Engines kept running; 1 if not given.")
@click.option("--max-replicas", type=int, help="Engines at most, under load; 2 if not given.")
@click.option("--max-seq-len", type=int, help="A shorter window than the model's: less memory.")
@click.option("--draft", help="A smaller model of the same tokenizer, which guesses.")
@with_overrides
@with_json
def serve(
    model: str,
    adapters: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
    **values: int | str | None,
) -> None:
    """Serve MODEL behind the OpenAI-compatible HTTP API.

    \b
    Example:  mulm serve demo
              mulm serve demo@1 --max-replicas 4
              mulm serve demo --adapter demo-poems --adapter other=demo-poems@2
              mulm serve demo --draft demo-small
              mulm serve qwen --max-seq-len 4096 --set n_slots=64
    """
    with open_journey() as journey:
        result = journey.serve(model, values, overrides, adapters)
    print_result(result, as_json, "{model} answers at {url} (key: {key_file})")


@cli.command()
@with_json
def demo(as_json: bool) -> None:
    """The whole journey on bundled text: data, training, evaluation, serving, a chat."""
    from jobs.demo import run_demo

    out = sys.stderr if as_json else sys.stdout
    result = run_demo(Home.from_env(), Progress(sys.stderr), sys.stdin, out)
    print_result(result, as_json, "")


def main(argv: list[str] | None = None) -> None:
    """Run the command and exit with the documented code."""
    as_json = "--json" in (sys.argv[1:] if argv is None else argv)
    # All three end a command in order; started in the background, a shell has it ignore SIGINT,
    # and the cluster that it starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        cli.main(args=argv, prog_name="mulm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message())
    except click.UsageError as error:
        _fail(ConfigError(error.format_message(), hint="`--help` shows how it is used"), as_json)
    except (click.Abort, KeyboardInterrupt):
        hint = "finished work is kept; the same command goes on"
        _fail(StoppedError("stopped", hint=hint), as_json)
    except MulmError as error:
        _fail(error, as_json)


def _fail(error: MulmError, as_json: bool) -> None:
    if as_json:
        told = {"code": error.code, "message": error.message, "hint": error.hint}
        click.echo(json.dumps({"error": told}), err=True)
        sys.exit(exit_code(error))
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    click.echo(harmless(f"error [{error.code}]: {error.message}{hint}"), err=True)
    sys.exit(exit_code(error))
