"""The verbs `chat` and `generate`: what is served answers in the terminal and over files."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_remote import open_chat, with_server
from jobs.cli_verbs import Number, say, with_json
from jobs.out_path import require_folder
from mulm.errors import ConfigError, DataError, JobFailedError
from mulm.home import Home
from mulm.terminal_text import harmless, read_text, written

if TYPE_CHECKING:
    from jobs.generate import Totals


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", help="Which served model; the first one if not given.")
@click.option("--system", help="What the system says before all else.")
@click.option("--max-tokens", default=200, show_default=True)
@click.option("--temperature", type=Number(), default=0.8, show_default=True)
@click.option("--top-p", type=Number(), help="Only the likeliest tokens of this share.")
@click.option("--seed", type=int, help="Repeat the same answer.")
@with_server
@with_json
def chat(
    prompt: str | None,
    model: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float,
    top_p: float | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Talk to a served model: one PROMPT, a conversation, or a prompt a line from a pipe.

    \b
    Example:  mulm chat "It was a dark night, and"
              echo "The wizard said" | mulm chat
              mulm chat --url http://10.0.0.5:8000 --key @~/its_key
    """
    from jobs.chat import choose_model, converse, talk
    from jobs.conversation import ChatOptions

    client = open_chat()
    try:
        name = choose_model(client, model)
        said = None if system is None else written(system)
        options = ChatOptions(name, max_tokens, temperature, seed, top_p, said)
        if prompt is None and not as_json:
            talk(client, options, sys.stdin, sys.stdout, Home.from_env().chat_history)
        else:
            asked = None if prompt is None else written(prompt)
            converse(client, options, asked, as_json)
    finally:
        client.close()


@click.command()
@click.argument("prompt", required=False)
@click.option("--file", "source", type=Path, help="A prompt a line, or .jsonl with an object each.")
@click.option("--out", type=Path, help="Where answers go; what stands there is not asked again.")
@click.option("--model", help="Which served model; the first one if not given.")
@click.option("--chat", "as_chat", is_flag=True, help="Prompts are messages of a user.")
@click.option("--max-tokens", type=int, help="New tokens at most.")
@click.option("--temperature", type=Number(), help="0 always takes the likeliest token.")
@click.option("--top-p", type=Number(), help="Only the likeliest tokens of this share.")
@click.option("--seed", type=int, help="Repeat the same answers.")
@click.option("--stop", multiple=True, help="A text that ends an answer; several are possible.")
@click.option("--concurrency", default=16, show_default=True, help="Requests at a time.")
@with_server
@with_json
def generate(
    prompt: str | None,
    source: Path | None,
    out: Path | None,
    model: str | None,
    as_chat: bool,
    stop: tuple[str, ...],
    concurrency: int,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Go on with PROMPT, with standard input, or with each line of a file.

    \b
    Example:  mulm generate "Once upon a time" --max-tokens 50
              mulm generate --file prompts.jsonl --out answers.jsonl
    """
    from jobs.chat import choose_model
    from jobs.generate import ask, one_order, text_of

    if source is not None and prompt is not None:
        raise ConfigError("give a prompt or a file, not both")
    if source is None and out is not None:
        raise ConfigError("--out belongs to --file")
    if concurrency < 1:
        raise ConfigError("--concurrency counts from 1")
    if out is not None:
        require_folder(out)
    client = open_chat()
    try:
        given = {name: value for name, value in sampling.items() if value is not None}
        given |= {"stop": [written(text) for text in stop]} if stop else {}
        defaults = {"model": choose_model(client, model)} | given
        if source is not None:
            _file(client, source, out, defaults, as_chat, concurrency)
            return
        text = read_text(sys.stdin) if prompt is None else written(prompt)
        answer = ask(client, one_order(text, defaults, as_chat))
        click.echo(json.dumps(answer) if as_json else harmless(text_of(answer)))
    finally:
        client.close()


def _file(
    client: Any, source: Path, out: Path | None, defaults: Any, as_chat: bool, concurrency: int
) -> None:
    from jobs.generate import done_in, generate, opened, read_orders

    orders = read_orders(source, defaults, as_chat)
    if (first := next(orders, None)) is None:
        raise DataError(
            f"{str(source)!r} holds nothing to ask", hint="write a prompt a line into it"
        )
    orders = chain([first], orders)
    with nullcontext(sys.stdout) if out is None else opened(out) as target:
        done = frozenset() if out is None else done_in(out)
        totals = generate(client, orders, target, done=done, concurrency=concurrency)
    skipped = f", {totals.n_skipped} were there already" if totals.n_skipped else ""
    say(f"{totals.n_answered} answered, {totals.n_failed} failed{skipped}")
    if totals.n_failed:
        raise JobFailedError(f"{totals.n_failed} lines have no answer", hint=_way_out(totals))


def _way_out(totals: Totals) -> str:
    """What to do about lines without an answer."""
    if not totals.n_wrong:
        return "run the same again to ask for them"
    mend = "mend the lines that are told above"
    if totals.n_wrong == totals.n_failed:
        return f"{mend}: they cannot be asked as they are"
    return f"{mend}; the others are asked for if you run the same again"
