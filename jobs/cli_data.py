"""`mulm data ...`: the verbs about datasets: what builds, lists and keeps them.

Those that look into a version stand in `jobs.cli_data_look`. Printing alone is done here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_complete import names_of
from jobs.cli_data_look import LOOKS, open_looks, open_shelf
from jobs.cli_push import push_verb
from jobs.cli_remote import (
    chosen_server,
    open_remote,
    show_elsewhere,
    versions_of,
    with_server,
)
from jobs.cli_verbs import (
    Number,
    Verbs,
    is_confirmed,
    open_journey,
    print_result,
    print_versions,
    say,
    shown_progress,
    with_json,
    with_overrides,
)
from mulm.config import load_config
from mulm.errors import CorruptError

if TYPE_CHECKING:
    from jobs.dataset_removal import Removal


@click.group(cls=Verbs)
def data() -> None:
    """Datasets: build versions out of raw text, look into them, compare them, clean up.

    \b
    Example:  mulm data build examples/sample.yaml
    """


for look in LOOKS:
    data.add_command(look)
data.add_command(push_verb("data", "dataset"))


@data.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@with_overrides
@with_server
@with_json
def data_build(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Clean, split and tokenize the texts that RECIPE (a YAML file) names.

    At a server elsewhere (--url) files of this machine are uploaded first; Ctrl-C then ends the
    watching only.

    \b
    Example:  mulm data build examples/sample.yaml
              mulm data build examples/sample.yaml --set tokenizer.vocab_size=2048
              mulm data build notes.yaml --url http://10.0.0.5:8000 --key @~/its_key
    """
    result = _built_elsewhere(recipe, overrides)
    if result is None:
        with open_journey() as journey:
            result = journey.build_dataset(recipe, overrides)
    print_result(
        result, as_json, "{dataset}: {train_tokens} training tokens from {documents} documents"
    )


def _built_elsewhere(path: Path, overrides: tuple[str, ...]) -> dict[str, Any] | None:
    """By the chosen server, of files that are sent to it; None for this machine."""
    from jobs.recipe_upload import uploaded
    from jobs.remote_follow import start_and_follow
    from mulm.data.recipe import Recipe

    with open_remote() as remote:
        if remote is None:
            return None
        progress = shown_progress()
        recipe = uploaded(load_config(Recipe, path, overrides), remote, progress.note)
        return start_and_follow(remote, "prepare", recipe, progress)


@data.command("ls")
@click.argument("name", required=False, shell_complete=names_of("dataset"))
@with_server
@with_json
def data_ls(name: str | None, as_json: bool) -> None:
    """List all versions, or those of NAME: tokens, documents, size, age, sources.

    \b
    Example:  mulm data ls
              mulm data ls books --json
    """
    from jobs.dataset_listing import listing_lines

    if chosen_server() is not None:
        print_versions(versions_of("dataset", name), as_json)
        return
    with open_shelf() as shelf:
        rows, now_s = shelf.listed(name), shelf.clock()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows]))
        return
    if not rows:
        say("there are none yet")
    click.echo("".join(f"{line}\n" for line in listing_lines(rows, now_s)), nl=False)


@data.command("show")
@click.argument("ref", shell_complete=names_of("dataset"))
@with_server
@with_json
def data_show(ref: str, as_json: bool) -> None:
    """Show REF: counts, sources and licences, rules, tokenizer, parents, files.

    \b
    Example:  mulm data show books
              mulm data show books@3 --json
    """
    from jobs.dataset_listing import description_lines

    if show_elsewhere("dataset", ref, as_json):
        return
    with open_shelf() as shelf:
        result = shelf.described(ref)
    click.echo(json.dumps(result) if as_json else "\n".join(description_lines(result)))


@data.command("lineage")
@click.argument("ref", shell_complete=names_of("dataset"))
@with_server
@with_json
def data_lineage(ref: str, as_json: bool) -> None:
    """Show what REF was made from, and what was made from it.

    \b
    Example:  mulm data lineage books@3
    """
    from jobs.dataset_listing import lineage_lines

    with open_looks() as looks:
        found = looks.lineage(ref)
    click.echo(json.dumps(asdict(found)) if as_json else "\n".join(lineage_lines(found)))


@data.command("rm")
@click.argument("ref", shell_complete=names_of("dataset"))
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_server
@with_json
def data_rm(ref: str, yes: bool, as_json: bool) -> None:
    """Take the name REF away; `mulm data gc` removes the files when nothing needs them.

    Refuses what an alias points to, what a model was made from and what a run reads that has not
    ended. A tokenizer that was trained for REF alone goes too. Numbers are not given again.

    \b
    Example:  mulm data rm books@2
              mulm data rm books@2 --yes
    """
    with _open_removal() as removal:
        exact, manifest_id = removal.find(ref)
        if not yes and not is_confirmed(f"Take the name {exact} away?", exact):
            say(f"{exact} stays")
            return
        names = removal.remove(exact)
    result = {"dataset": exact, "dataset_id": manifest_id, "removed": names}
    print_result(result, as_json, f"gone: {', '.join(names)}")


@data.command("verify")
@click.argument("ref", required=False, shell_complete=names_of("dataset"))
@with_json
def data_verify(ref: str | None, as_json: bool) -> None:
    """Read every file of REF and of what it was made from again; all that is stored without REF.

    Ends with exit code 5 if something is damaged.

    \b
    Example:  mulm data verify
              mulm data verify books@3 --json
    """
    from jobs.dataset_upkeep import verified

    with open_shelf() as shelf:
        result = verified(shelf, ref, shown_progress())
    damages = result["damages"]
    print_result(result, as_json, "" if damages else "{versions} versions are whole")
    for damage in [] if as_json else damages:
        of = ", ".join(damage["refs"]) or "no name"
        click.echo(f"{damage['manifest_id']} ({of})  {damage['file']}  {damage['reason']}")
    if damages:
        raise CorruptError(
            f"{len(damages)} files are damaged or missing",
            hint="run the command that made them again: it mends what is damaged",
        )


@data.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--grace",
    type=Number(min=0),
    default=24.0,
    show_default=True,
    metavar="HOURS",
    help="What was made or used since stays.",
)
@with_json
def data_gc(dry_run: bool, grace: float, as_json: bool) -> None:
    """Remove files that no name, no run and no model needs, of any kind of version.

    `mulm gc` and `mulm data gc` are the same.

    \b
    Example:  mulm data gc --dry-run
              mulm gc --grace 1
    """
    from jobs.dataset_upkeep import collected
    from jobs.dataset_words import size_text

    with open_shelf() as shelf:
        result = collected(shelf, grace, is_dry=dry_run)
    size = size_text(result["size_bytes"] if dry_run else result["freed_bytes"])
    verb = "would go" if dry_run else "are gone"
    print_result(result, as_json, f"{{files}} files {verb}: {size}")
    for version in [] if as_json else result["versions"]:
        click.echo(f"  {version}")
    for run in [] if as_json else result["unended_runs"]:
        say(f"  newer than {run}, which has not ended: stays")


@contextmanager
def _open_removal() -> Iterator[Removal]:
    """At the chosen server, or on this machine."""
    from jobs.dataset_removal import HomeRemoval, RemoteRemoval

    with open_remote() as remote:
        if remote is not None:
            yield RemoteRemoval(remote)
            return
    with open_shelf() as shelf:
        yield HomeRemoval(shelf)
