"""`mulm eval`: what a model can do, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from jobs.cli_complete import names_of
from jobs.cli_remote import done_elsewhere, with_server
from jobs.cli_verbs import open_journey, print_result, with_json, with_overrides
from mulm.config import load_config
from mulm.errors import ConfigError
from mulm.eval.config import EvaluateConfig
from mulm.eval.suites.registry import BITS_PER_BYTE, SUITES, require_suite

_KNOWN = ", ".join((BITS_PER_BYTE, *SUITES))


@click.command("eval")
@click.argument("model", shell_complete=names_of("model"))
@click.option("--suite", "suites", metavar="NAMES", help=f"all, or of: {_KNOWN}.")
@click.option(
    "--data", "given", multiple=True, metavar="[SUITE=]FILE",
    help="A suite's items: JSON lines or Parquet, hf://datasets/..., or `hub` for its own.",
)  # fmt: skip
@click.option("--limit", type=int, help="Items of each suite at most.")
@click.option("--dataset", help="Whose held-out text; that of the model's own if not given.")
@with_overrides
@with_server
@with_json
def evaluate(
    model: str,
    suites: str | None,
    given: tuple[str, ...],
    limit: int | None,
    dataset: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure MODEL: bits per byte on held-out text beside xz -9e, or the suites that you name.

    \b
    Example:  mulm eval demo
              mulm eval demo --suite blimp,lambada
              mulm eval demo --suite piqa --data valid.jsonl --limit 200
              mulm eval demo --suite blimp,arc_easy --data blimp=hub
    """
    names = [name.strip() for name in (suites or BITS_PER_BYTE).split(",")]
    for name in names:
        require_suite(name)  # before the data, which is named by suites
    values: dict[str, Any] = {"model": model, "dataset": dataset, "limit": limit}
    values |= {"suites": names, "data": _data(given, names)}
    config = load_config(EvaluateConfig, values, overrides)
    result = done_elsewhere("evaluate", lambda: config)
    if result is None:
        with open_journey() as journey:
            result = journey.measure(config)
    print_result(result, as_json, _sentence(result))


def _data(given: Sequence[str], suites: Sequence[str]) -> dict[str, str]:
    """The files by suite; a path is made absolute, since a job runs elsewhere."""
    from mulm.data.sources.remote import is_remote
    from mulm.eval.suite_data import HUB

    data = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name.partition(":")[0] not in SUITES:
            if len(suites) != 1 or suites[0] not in SUITES:
                raise ConfigError(
                    f"--data {text!r} does not say for which suite it is",
                    hint="write --data SUITE=FILE",
                )
            name, path = suites[0], text
        is_path = path != HUB and not is_remote(path)
        data[name] = str(Path(path).expanduser().absolute()) if is_path else path
    return data


def _sentence(result: dict[str, Any]) -> str:
    """What a person reads: a line for bits per byte, and a line for each metric of each suite."""
    lines = []
    if "bits_per_byte" in result:
        lines.append("{model}: {bits_per_byte:.3f} bits per byte; xz -9e: {xz_bits_per_byte:.3f}")
    for name, scores in result.get("suites", {}).items():
        for metric, value in scores["metrics"].items():
            low, high = value["interval"]
            lines.append(
                f"{name:<16} {metric:<22} {value['score']:>8.4g}  ± {value['standard_error']:<8.3g}"
                f" 95 %: {low:.4g} to {high:.4g}  n {scores['n']}"
            )
    return "\n".join(lines)
