"""`mulm tokenizer ...`: the verbs about tokenizers, which `mulm data build` trains too."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_complete import names_of
from jobs.cli_push import push_verb
from jobs.cli_remote import done_elsewhere, open_remote, versions_of, with_server
from jobs.cli_verbs import (
    Verbs,
    open_journey,
    print_result,
    print_versions,
    with_json,
    with_overrides,
)
from mulm.errors import ConfigError
from mulm.home import Home
from mulm.terminal_text import harmless, read_text, written

if TYPE_CHECKING:
    from jobs.tokenizer_desk import TokenizerDesk

_REF = names_of("tokenizer")


@click.group(cls=Verbs)
def tokenizer() -> None:
    """Tokenizers: train, list and show them, see how they cut a text.

    \b
    Example:  mulm tokenizer encode demo "Once upon a time"
    """


tokenizer.add_command(push_verb("tokenizer", "tokenizer"))


@tokenizer.command("ls")
@click.argument("name", required=False, shell_complete=_REF)
@with_server
@with_json
def tokenizer_ls(name: str | None, as_json: bool) -> None:
    """List all versions of tokenizers, or those of NAME.

    \b
    Example:  mulm tokenizer ls
              mulm tokenizer ls books --json
    """
    print_versions(versions_of("tokenizer", name), as_json)


@tokenizer.command("train")
@click.argument("dataset", shell_complete=names_of("dataset"))
@click.option("--name", required=True, help="Publish as this.")
@click.option("--vocab-size", type=int, help="How many tokens; 4096.")
@with_overrides
@with_server
@with_json
def tokenizer_train(
    dataset: str, name: str, vocab_size: int | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Learn a tokenizer from the documents of DATASET.

    A recipe uses it by `tokenizer: {ref: NAME}`. The same documents and settings are the same
    tokenizer, also where `mulm data build` learns it.

    \b
    Example:  mulm tokenizer train books --name books-16k --vocab-size 16384
              mulm tokenizer train books@2 --name chats --set chat_fraction=0.5
    """
    from mulm.config import load_config
    from mulm.data.tokenizer_config import TokenizerConfig

    values: dict[str, Any] = {"dataset": dataset, "name": name}
    values |= {} if vocab_size is None else {"vocab_size": vocab_size}
    config = load_config(TokenizerConfig, values, overrides)
    result = done_elsewhere("train_tokenizer", lambda: config)
    if result is None:
        with open_journey() as journey:
            result = journey.learn_tokenizer(config)
    print_result(result, as_json, "{tokenizer}: {vocab_size} tokens, of the documents of {dataset}")


@tokenizer.command("show")
@click.argument("ref", shell_complete=_REF)
@with_server
@with_json
def tokenizer_show(ref: str, as_json: bool) -> None:
    """Show REF: how many tokens it has, its fingerprint, special tokens, what was made with it.

    \b
    Example:  mulm tokenizer show books
              mulm tokenizer show books@1 --json
    """
    told = _described(ref)
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(f"{told['tokenizer']}  {told['tokenizer_id']}")
    click.echo(
        f"tokens       {told['vocab_size']:,}, {len(told['special_tokens'])} of them special"
    )
    click.echo(f"fingerprint  {told['fingerprint']}")
    for kind in ("parents", "used_by"):
        for one in told[kind]:
            names = f" {', '.join(one['refs'])}" if one["refs"] else ""
            click.echo(f"{kind.replace('_', ' '):<11}  {one['role']} {one['id']}{names}")


@tokenizer.command("encode")
@click.argument("ref", shell_complete=_REF)
@click.argument("text", required=False)
@with_server
@with_json
def tokenizer_encode(ref: str, text: str | None, as_json: bool) -> None:
    """Show how REF cuts TEXT, or standard input, into tokens.

    \b
    Example:  mulm tokenizer encode books "It was a dark night"
              mulm tokenizer encode books@1 --json < chapter.txt
    """
    if text is None and sys.stdin.isatty():
        raise ConfigError("there is no text", hint='mulm tokenizer encode NAME "some text"')
    told = written(text) if text is not None else read_text(sys.stdin)
    pieces = _pieces(ref, told)
    if as_json:
        click.echo(json.dumps({"ids": [i for i, _ in pieces], "tokens": [t for _, t in pieces]}))
        return
    click.echo(harmless("|".join(piece for _, piece in pieces)))
    size = len(told.encode())
    per_token = f", {size / len(pieces):.2f} bytes each" if pieces else ""
    click.echo(f"{len(pieces)} tokens{per_token}")


def _described(ref: str) -> dict[str, Any]:
    """A tokenizer of the chosen server, or of this machine."""
    from jobs.remote_versions import RemoteVersions

    with open_remote() as remote:
        if remote is not None:
            return RemoteVersions(remote).tokenizer(ref)
    with open_desk() as desk:
        return desk.described(ref)


def _pieces(ref: str, text: str) -> list[tuple[int, str]]:
    """Id and text of each token, by the chosen server's tokenizer or by one of this machine."""
    from jobs.remote_versions import RemoteVersions

    with open_remote() as remote:
        if remote is not None:
            return RemoteVersions(remote).pieces(ref, text)
    with open_desk() as desk:
        return desk.pieces(ref, text)


def open_desk() -> TokenizerDesk:
    """The tokenizers of this machine's installation."""
    from jobs.tokenizer_desk import TokenizerDesk

    return TokenizerDesk(Home.from_env())
