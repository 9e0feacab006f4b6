"""`mulm data push`, `mulm model push` and `mulm tokenizer push`: copies in the store elsewhere."""

from __future__ import annotations

import click

from jobs.cli_complete import names_of
from jobs.cli_verbs import print_result, shown_progress, with_json
from mulm.home import Home
from mulm.manifest import Kind

_HELP = """Copy REF, or all {kind}s without it, to the store that MULM_STORE_URL names.

What they were made from goes along; what is there is left out, so doing it again goes on.

\b
Example:  mulm {group} push
          MULM_STORE_URL=file:///mnt/nas/mulm mulm {group} push books@3
"""


def push_verb(group: str, kind: Kind) -> click.Command:
    """The verb for a group of verbs."""

    @click.command("push", help=_HELP.format(kind=kind, group=group))
    @click.argument("ref", required=False, shell_complete=names_of(kind))
    @with_json
    def push(ref: str | None, as_json: bool) -> None:
        from jobs.dataset_words import size_text
        from jobs.push import push_named

        result = push_named(Home.from_env(), kind, ref, shown_progress())
        size = size_text(result["size_bytes"])
        done = f"{{files}} files, {size}, are" if result["files"] else "all of it is"
        print_result(result, as_json, f"{done} at {{url}}")

    return push
