"""`mulm data preview|stats|rejects|diff`: the verbs that look into dataset versions.

Added to the group in `jobs.cli_data`. Invariants: nothing is written but the page that is asked
for; with `--url` they tell the same of a server's datasets.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.cli_complete import names_of
from jobs.cli_remote import open_remote, with_server
from jobs.cli_verbs import say, with_json
from mulm.errors import ConfigError
from mulm.home import Home

if TYPE_CHECKING:
    from jobs.dataset_looks import Looks
    from jobs.dataset_shelf import HomeShelf

F = TypeVar("F", bound=Callable[..., Any])


def _with_count(default: int, what: str) -> Callable[[F], F]:
    """The `-n` option."""
    return click.option(
        "-n", "n", type=click.IntRange(min=0), default=default, show_default=True, help=what
    )


def _with_seed(command: F) -> F:
    option = click.option(
        "--seed", type=click.IntRange(min=0), default=0, help="Another seed chooses others."
    )
    return option(command)


@click.command("preview")
@click.argument("ref", shell_complete=names_of("dataset"))
@_with_count(3, "Documents to show.")
@click.option("--split", type=click.Choice(["train", "validation"]), help="Both if not given.")
@click.option("--grep", default="", metavar="TEXT", help="Only those that hold TEXT.")
@click.option("--source", metavar="LABEL", help="Only those of this source.")
@click.option("--tokens", is_flag=True, help="Show where tokens begin.")
@click.option("--mask", is_flag=True, help="Show what is not learned.")
@click.option(
    "--chars",
    type=click.IntRange(min=0),
    default=1200,
    show_default=True,
    help="Of each at most so much; 0 for all.",
)
@_with_seed
@with_server
@with_json
def preview(
    ref: str,
    n: int,
    split: str | None,
    grep: str,
    source: str | None,
    tokens: bool,
    mask: bool,
    chars: int,
    seed: int,
    as_json: bool,
) -> None:
    """Show some documents of REF as training reads them; the same ones each time.

    \b
    Example:  mulm data preview books
              mulm data preview books@3 --grep whale -n 1
              mulm data preview chats --tokens --mask --split train
    """
    from jobs.dataset_preview import document_lines
    from mulm.data.views import PreviewOrder

    order = PreviewOrder(n, split, seed, grep, source, tokens, mask, chars)
    with open_looks() as looks:
        documents = looks.preview(ref, order)
    if as_json:
        click.echo(json.dumps(documents))
        return
    if not documents:
        say("no document is like that")
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for document in documents:
        _print_lines([*document_lines(document, order, in_colour=in_colour), ""])


@click.command("stats")
@click.argument("ref", shell_complete=names_of("dataset"))
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page too.")
@with_server
@with_json
def stats(ref: str, html: Path | None, as_json: bool) -> None:
    """Draw how long the documents of REF are, their languages, sources and reject reasons.

    \b
    Example:  mulm data stats books
              mulm data stats books@3 --html books.html
    """
    from jobs.dataset_stats import stats_lines, stats_page

    with open_looks() as looks:
        found = looks.stats(ref)
    if html is not None:
        _write(html, stats_page(found))
        say(f"{html} is written")
    if as_json:
        click.echo(json.dumps({"dataset": found.ref, **asdict(found.told)}))
    else:
        _print_lines(stats_lines(found))


@click.command("rejects")
@click.argument("ref", shell_complete=names_of("dataset"))
@click.option("--reason", help="Samples of this one only.")
@_with_count(5, "Samples of each reason.")
@_with_seed
@with_server
@with_json
def rejects(ref: str, reason: str | None, n: int, seed: int, as_json: bool) -> None:
    """Show what was dropped of REF and why; for what repeats another document, also that one.

    \b
    Example:  mulm data rejects books -n 0
              mulm data rejects books@3 --reason near_duplicate -n 10
    """
    from jobs.dataset_rejects import reject_lines

    with open_looks() as looks:
        result = looks.rejects(ref, reason, n, seed)
    _print_result(result, reject_lines, as_json)


@click.command("diff")
@click.argument("before", shell_complete=names_of("dataset"))
@click.argument("after", shell_complete=names_of("dataset"))
@_with_count(3, "Samples of each kind of difference.")
@with_server
@with_json
def diff(before: str, after: str, n: int, as_json: bool) -> None:
    """Show in which settings, files and documents BEFORE and AFTER differ, and what they share.

    \b
    Example:  mulm data diff books@2 books@3
              mulm data diff books@2 books -n 10 --json
    """
    from jobs.dataset_diff import diff_lines

    with open_looks() as looks:
        result = looks.diff(before, after, n)
    _print_result(result, diff_lines, as_json)


LOOKS: tuple[click.Command, ...] = (preview, stats, rejects, diff)


def open_shelf() -> HomeShelf:
    """The dataset versions of this machine's installation."""
    from jobs.dataset_shelf import HomeShelf

    return HomeShelf(Home.from_env())


@contextmanager
def open_looks() -> Iterator[Looks]:
    """The datasets of the chosen server, or of this machine's installation."""
    from jobs.dataset_looks import ShelfLooks
    from jobs.remote_looks import RemoteLooks

    with open_remote() as remote:
        if remote is not None:
            yield RemoteLooks(remote)
            return
    with open_shelf() as shelf:
        yield ShelfLooks(shelf)


def _print_result(
    result: dict[str, Any], lines: Callable[[dict[str, Any]], list[str]], as_json: bool
) -> None:
    if as_json:
        click.echo(json.dumps(result))
    else:
        _print_lines(lines(result))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, color=True)  # colours are ours alone: text of a corpus has none left


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {str(path)!r}: {error.strerror}", hint="name a file in a folder of yours"
        ) from None
