"""`mulm serve`: what answers over HTTP, here or at a server elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from jobs.cli_complete import names_of
from jobs.cli_remote import open_remote, with_server
from jobs.cli_verbs import open_journey, print_result, shown_progress, with_json, with_overrides


@click.command()
@click.argument("model", shell_complete=names_of("model"))
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
@click.option("--name", "served_name", help="What clients call it; the model's name if not given.")
@click.option("--stop", is_flag=True, help="Serve the deployment MODEL no more.")
@with_overrides
@with_server
@with_json
def serve(
    model: str,
    adapters: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
    stop: bool,
    **values: int | str | None,
) -> None:
    """Serve MODEL behind the OpenAI-compatible HTTP API, beside what is served already.

    \b
    Example:  mulm serve demo
              mulm serve demo@1 --max-replicas 4
              mulm serve demo --adapter demo-poems --adapter other=demo-poems@2
              mulm serve demo --draft demo-small
              mulm serve qwen --max-seq-len 4096 --set n_slots=64
              mulm serve demo@live --name assistant
              mulm serve assistant --stop
              mulm serve demo --url http://10.0.0.5:8000 --key @~/its_key
    """
    if stop:
        _stop(model)
        print_result({"stopped": model}, as_json, "{stopped} is not served any more")
        return
    result = _served_elsewhere(model, values, overrides, adapters)
    if result is not None:
        print_result(result, as_json, "{model} answers at {url}")
        return
    with open_journey() as journey:
        result = journey.serve(model, values, overrides, adapters)
    print_result(result, as_json, "{model} answers at {url} (key: {key_file})")


def _stop(name: str) -> None:
    with open_remote() as remote:
        if remote is not None:
            remote.delete(f"deployments/{name}")
            return
    with open_journey() as journey:
        journey.stop_serving(name)


def _served_elsewhere(
    model: str, values: Mapping[str, Any], overrides: Sequence[str], adapters: Sequence[str]
) -> dict[str, Any] | None:
    """By the chosen server, which has the model; None for this machine."""
    from jobs.serve_args import serving_args
    from jobs.serve_model import served_by

    with open_remote() as remote:
        if remote is None:
            return None
        args = serving_args(model, adapters, values, overrides)
        progress = shown_progress()
        try:
            serves = served_by(remote, args, report=progress.note)
        finally:
            progress.clear()
    return {
        "model": serves[args.name],
        "served_name": args.name,
        "adapters": {name: ref for name, ref in serves.items() if name != args.name},
        "url": f"{remote.url}/v1",
    }
