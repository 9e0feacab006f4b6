"""`mulm backup` and `mulm restore`: an installation as one file, and back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from jobs.cli_verbs import print_result, say, shown_progress, with_json
from mulm.home import Home
from mulm.store import STORE_URL

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--no-checkpoints", is_flag=True, help="Without what runs go on from; models stay.")
@with_json
def backup(file: Path, no_checkpoints: bool, as_json: bool) -> None:
    """Write all versions, names, runs and checkpoints into FILE, a tar with checksums.

    The application may be up and at work: what is in the backup is as of one moment. No key is in
    it that would let somebody in. What lies at MULM_STORE_URL alone stays there.

    \b
    Example:  mulm backup mulm-monday.tar
              mulm backup /mnt/disk/mulm.tar --no-checkpoints
    """
    from jobs.backup import back_up
    from jobs.dataset_words import size_text

    home = Home.from_env()
    result = back_up(
        home,
        file.absolute(),
        shown_progress(),
        with_checkpoints=not no_checkpoints,
        has_origin=bool(os.environ.get(STORE_URL)),
    )
    size = size_text(result["size_bytes"])
    print_result(result, as_json, "{backup}: {versions} versions, {files} files, " + size)
    if not (result["versions"] or result["runs"]):
        say(f"no version and no run is in it: is {home.root} the installation? (MULM_HOME)")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--check", is_flag=True, help="Only read it all and compare checksums.")
@click.option("--replace", is_flag=True, help="Also where there is data, which is moved aside.")
@with_json
def restore(file: Path, check: bool, replace: bool, as_json: bool) -> None:
    """Bring back what `mulm backup` wrote into FILE.

    A torn or damaged file is refused before anything is changed, and an installation with data is
    not touched without --replace, which moves it aside. The application must be down. Keys of
    clients stay valid; the first key is that of this machine, or a new one.

    \b
    Example:  mulm restore mulm-monday.tar --check
              MULM_HOME=~/again mulm restore mulm-monday.tar
              mulm restore mulm-monday.tar --replace
    """
    from jobs.restore import check_backup
    from jobs.restore import restore as bring_back

    if check:
        result = check_backup(file, shown_progress())
    else:
        result = bring_back(Home.from_env(), file, shown_progress(), replaces=replace)
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(result["created_s"]))
    done = "is whole" if check else "is in {home}"
    print_result(result, as_json, "{backup} of " + made + f", {{files}} files, {done}")
    if result.get("moved_to"):
        say(f"what was there before is in {result['moved_to']}")
