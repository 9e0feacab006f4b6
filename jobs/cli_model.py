"""`mulm model ...`: the verbs about models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_complete import names_of
from jobs.cli_push import push_verb
from jobs.cli_remote import open_remote, show_elsewhere, versions_of, with_server
from jobs.cli_verbs import (
    Verbs,
    print_result,
    print_versions,
    say,
    shown_progress,
    with_json,
)
from mulm.home import Home

if TYPE_CHECKING:
    from jobs.exchange import Exchange
    from jobs.remote_exchange import RemoteExchange


@click.group(cls=Verbs)
def model() -> None:
    """Models: list, show and plan them, export them for other programs, import theirs.

    \b
    Example:  mulm model show demo
    """


model.add_command(push_verb("model", "model"))


@model.command("ls")
@with_server
@with_json
def model_ls(as_json: bool) -> None:
    """List model versions.

    \b
    Example:  mulm model ls --json
              mulm model ls --url http://10.0.0.5:8000 --key @~/its_key
    """
    print_versions(versions_of("model"), as_json)


@model.command("show")
@click.argument("name", metavar="MODEL", shell_complete=names_of("model"))
@with_server
@with_json
def model_show(name: str, as_json: bool) -> None:
    """Show MODEL: shape, parameters, files, lineage, aliases.

    \b
    Example:  mulm model show demo
              mulm model show demo@live --json
    """
    if show_elsewhere("model", name, as_json):
        return
    with open_exchange() as exchange:
        result = exchange.show(name)
    print_result(result, as_json, "")
    for line in [] if as_json else described(result):
        click.echo(line)


@model.command("alias")
@click.argument("name", metavar="MODEL", shell_complete=names_of("model"))
@click.argument("alias")
@click.option("--remove", is_flag=True, help="Let ALIAS of MODEL's name mean nothing any more.")
@with_server
@with_json
def model_alias(name: str, alias: str, remove: bool, as_json: bool) -> None:
    """Let ALIAS mean MODEL from now on. What serves the alias follows within a second or two.

    \b
    Example:  mulm model alias demo@4 live
              mulm model alias demo live --remove
    """
    from jobs.remote_versions import RemoteVersions

    with ExitStack() as stack:
        remote = stack.enter_context(open_remote())
        desk = RemoteVersions(remote) if remote else stack.enter_context(open_exchange())
        if remove:
            print_result(desk.unpoint(name, alias), as_json, "removed {removed}")
            return
        result = desk.point(name, alias)
    is_new = result["before"] != result["model"]
    before = f", before {result['before']}" if result["before"] else ""
    print_result(result, as_json, "{alias} is {model}" + (before if is_new else " already"))


@model.command("export")
@click.argument("name", metavar="MODEL", shell_complete=names_of("model"))
@click.option("--to", required=True, metavar="hf|gguf", help="A Hugging Face folder or a file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Must not exist yet.")
@click.option("--dtype", metavar="stored|fp32|fp16|bf16", help="hf: type of weights; as stored.")
@click.option("--quant", metavar="f32|f16|bf16|q8_0|q4_0", help="gguf: type of weights; f16.")
@click.option(
    "--chat-template",
    type=click.Path(path_type=Path),
    help="A Jinja file, not ours; not with --url.",
)
@with_server
@with_json
def model_export(
    name: str,
    to: str,
    out: Path,
    dtype: str | None,
    quant: str | None,
    chat_template: Path | None,
    as_json: bool,
) -> None:
    """Write MODEL for other programs: transformers and vLLM (hf), llama.cpp and Ollama (gguf).

    A server elsewhere (--url) writes it, and it is brought here; a copy stays there as a file of
    the API.

    \b
    Example:  mulm model export demo --to hf --dtype bf16 --out demo-hf
              mulm model export demo@live --to gguf --quant q8_0 --out demo.gguf
    """
    with _chosen_exchange() as exchange:
        result = exchange.export(name, to, out, dtype=dtype, quant=quant, template=chat_template)
    print_result(result, as_json, "{model} is in {out} ({size_bytes} bytes)")


@model.command("import")
@click.argument("source")
@click.option("--name", required=True, help="What it is called here.")
@with_server
@with_json
def model_import(source: str, name: str, as_json: bool) -> None:
    """Take a Llama or Qwen3 model from SOURCE: a folder, or owner/name[@revision] on a hub.

    Reads config.json, tokenizer.json and safetensors; runs no code and opens no pickle. HF_ENDPOINT
    names another hub, HF_TOKEN opens closed doors. To a server elsewhere (--url) the files of a
    folder are uploaded; from a hub it fetches them itself, once for each name and revision.

    \b
    Example:  mulm model import ./demo-hf --name again
              mulm model import Qwen/Qwen3-0.6B --name qwen
    """
    with _chosen_exchange() as exchange:
        result = exchange.import_model(source, name)
    print_result(result, as_json, "{model}: {parameters} parameters")
    if not as_json and result["chat_template"] in ("other", "broken"):
        say(
            "  its own chat template differs: here and in exports, conversations are"
            f" {result['chat_format']}"
        )


@model.command("plan")
@click.option("--size", default="base", show_default=True, help="A preset, such as base.")
@click.option("--vocab-size", type=int, default=32768, show_default=True)
@click.option("--seq-len", type=int, help="Tokens in a row of training (default: up to 1024).")
@with_json
def model_plan(size: str, vocab_size: int, seq_len: int | None, as_json: bool) -> None:
    """Say what a size of model weighs and on which cards it trains.

    \b
    Example:  mulm model plan --size base
    """
    from jobs.model_plan import describe, make_plan

    plan = make_plan(size, vocab_size, seq_len)
    click.echo(json.dumps(plan) if as_json else "\n".join(describe(plan)))


def open_exchange() -> Exchange:
    """The models of this machine's installation, shown on stderr."""
    from jobs.exchange import Exchange

    return Exchange(Home.from_env(), shown_progress(), os.environ)


@contextmanager
def _chosen_exchange() -> Iterator[Exchange | RemoteExchange]:
    """The models of the chosen server, or of this machine's installation."""
    with open_remote() as remote:
        if remote is not None:
            from jobs.remote_exchange import RemoteExchange

            yield RemoteExchange(remote, shown_progress())
            return
    with open_exchange() as exchange:
        yield exchange


def described(result: Mapping[str, Any]) -> list[str]:
    """What `show` says to a person."""
    aliases = f" ({', '.join(result['aliases'])})" if result["aliases"] else ""
    counts = ", ".join(f"{value:,} {key}" for key, value in result["counts"].items())
    lines = [f"{result['model']}{aliases}  {result['model_id']}", f"counts     {counts}"]
    shape = " ".join(f"{key}={value}" for key, value in result["shape"].items())
    lines.append(f"shape      {shape}")
    lines += [f"file       {name}  {size:,} bytes" for name, size in result["files"].items()]
    for role, parent in result["parents"].items():
        known = f"{' = '.join(parent['refs'])}  " if parent["refs"] else ""
        lines.append(f"made from  {role} {known}{parent['id']}")
    if result["imported_from"]:
        origin = {k: v for k, v in result["imported_from"].items() if k != "weights_sha256"}
        lines.append("imported   " + ", ".join(f"{k} {v}" for k, v in origin.items()))
    lines.append(f"licences   {', '.join(result['licences']) or 'not stated'}")
    return lines
