"""`mulm data ...`: the verbs about datasets."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli_verbs import (
    Verbs,
    open_journey,
    print_result,
    print_versions,
    with_json,
    with_overrides,
)


@click.group(cls=Verbs)
def data() -> None:
    """Datasets: build versions out of raw text, and list them."""


@data.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@with_overrides
@with_json
def data_build(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Clean, split and tokenize the texts that RECIPE (a YAML file) names.

    \b
    Example:  mulm data build examples/sample.yaml
              mulm data build examples/sample.yaml --set tokenizer.vocab_size=2048
    """
    with open_journey() as journey:
        result = journey.build_dataset(recipe, overrides)
    print_result(
        result, as_json, "{dataset}: {train_tokens} training tokens from {documents} documents"
    )


@data.command("ls")
@with_json
def data_ls(as_json: bool) -> None:
    """List dataset versions."""
    with open_journey() as journey:
        print_versions(journey.versions("dataset"), as_json)
