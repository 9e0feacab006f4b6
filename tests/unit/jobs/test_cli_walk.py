"""What holds for every command: options, examples, a place in the help; and completion."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from jobs.cli import cli
from jobs.cli_complete import names_of, run_names
from jobs.cli_root import SECTIONS
from jobs.exit_codes import EXIT_BY_CODE, FAULTS_FOUND
from mulm.ledger import Ledger

ROOT = Path(__file__).parents[3]
GROUPS = {
    "data", "tokenizer", "runs", "model", "cluster", "config", "feedback", "key",
}  # fmt: skip


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(walk(cli))


def examples_of(command: click.Command) -> list[str]:
    """The lines of a command's help that begin with `mulm`, or lead to it."""
    lines = [
        line.strip().removeprefix("Example:").strip() for line in (command.help or "").splitlines()
    ]
    return [line for line in lines if re.search(r"\bmulm [a-z]", line) and "`" not in line]


def options_of(command: click.Command) -> set[str]:
    return {name for param in command.params for name in param.opts if name.startswith("-")}


def test_the_groups_of_verbs_are_these() -> None:
    assert {n for n, c in cli.commands.items() if isinstance(c, click.Group)} == GROUPS


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_json_and_quiet_and_examples(path: str) -> None:
    command = COMMANDS[path]
    assert {"--json", "-q", "--quiet"} <= options_of(command)
    assert "Example:" in (command.help or "")
    group, _, verb = path.rpartition(" ")
    own = [f"mulm {path}", *([f"mulm {verb}"] if (group, verb) == ("data", "gc") else [])]
    other = "mulm data gc" if path == "gc" else ""
    found = examples_of(command)
    assert found
    for line in found:
        assert any(one in line for one in own) or (other and other in line) or path == "env", line


@pytest.mark.parametrize("path", COMMANDS)
def test_every_example_is_a_command_that_can_be_run(path: str) -> None:
    for line in examples_of(COMMANDS[path]):
        for words in commands_in(line):
            if words[:1] == ["mulm"]:
                parses(words[1:])


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_every_group_has_an_example_of_its_own(name: str, mulm: Any) -> None:
    found = examples_of(cli.commands[name])
    assert found
    for line in found:
        assert line.startswith(f"mulm {name} ")
        parses(shlex.split(line)[1:])
    _, out, _ = mulm(name, "--help")
    assert f"Example:  {found[0]}" in out


def commands_in(line: str) -> Iterator[list[str]]:
    """The words of each command of a line of shell, without variables that are set for it."""
    words: list[str] = []
    for token in [*shlex.shlex(line, posix=True, punctuation_chars=True), ";"]:
        if set(token) <= set("();<>|&"):
            yield words
            words = []
        elif words or "=" not in token:
            words.append(token)


def parses(words: list[str]) -> None:
    """The words name a command, and it knows their options."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    command.make_parser(context).parse_args(list(words))


def test_an_example_with_a_mistake_would_be_seen() -> None:
    with pytest.raises(click.NoSuchOption):
        parses(["data", "ls", "--bogus"])
    with pytest.raises(AssertionError):
        parses(["data", "list"])


def test_every_verb_has_one_section_of_the_help(mulm: Any) -> None:
    code, out, _ = mulm("--help")
    assert code == 0
    assert "Others:" not in out
    placed = [verb for verbs in SECTIONS.values() for verb in verbs]
    assert len(placed) == len(set(placed))
    assert set(cli.commands) <= set(placed)
    for verb in cli.commands:
        assert re.search(rf"^  {verb}  +\w", out, re.M)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_help_fits_and_ends_well(path: str, mulm: Any) -> None:
    code, out, err = mulm(*path.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage: mulm {path}" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("path", COMMANDS)
def test_a_mistake_is_one_json_object_on_stderr(path: str, mulm: Any) -> None:
    code, out, err = mulm(*path.split(), "--bogus", "--json")
    assert code == EXIT_BY_CODE["config_invalid"]
    assert out == ""
    assert set(json.loads(err)["error"]) == {"code", "message", "hint"}


@pytest.mark.parametrize("path", ["data ls", "tokenizer ls", "model ls", "runs ls"])
def test_quiet_leaves_the_result_alone(path: str, mulm: Any) -> None:
    assert "there are none" in mulm(*path.split())[2]
    assert mulm(*path.split(), "-q") == (0, "", "")
    assert mulm(*path.split(), "--json", "--quiet") == (0, "[]\n", "")


def test_the_page_names_the_codes_and_the_checks() -> None:
    page = (ROOT / "docs/command-line.md").read_text("utf-8")
    assert f"`mulm doctor` ends with {FAULTS_FOUND}" in page
    from jobs.doctor import CHECKS

    assert {name for name in CHECKS if f"`{name}`" not in page} == set()


# Completion ------------------------------------------------------------------------------------


def completed(mulm: Any, line: str) -> list[str]:
    """What bash offers behind a line, by the script that `mulm completion bash` prints."""
    words = line.split(" ")
    script = f"""
        source <(mulm completion bash)
        complete -p mulm >&2
        COMP_WORDS=({" ".join(shlex.quote(word) for word in words)}); COMP_CWORD={len(words) - 1}
        _mulm_completion mulm
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "MULM_HOME": str(mulm.home.root), "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "-F _mulm_completion mulm" in done.stderr
    return done.stdout.split()


def test_bash_completes_verbs_options_and_names(mulm: Any) -> None:
    assert sorted(completed(mulm, "mulm com")) == ["completion", "compress"]
    assert "--replace" in completed(mulm, "mulm restore --re")
    assert not mulm.home.root.exists()
    with Ledger(mulm.home.create().ledger) as facts:
        facts.publish("model", "poems", "mdl_" + "1" * 32)
        facts.set_alias("model", "poems", "live", 1)
        facts.publish("dataset", "prose", "ds_" + "1" * 32)
    assert completed(mulm, "mulm eval p") == ["poems"]
    assert completed(mulm, "mulm model show poems@") == ["poems@1", "poems@live"]
    assert completed(mulm, "mulm data show ") == ["prose"]


def test_runs_are_completed_by_id_and_name(mulm: Any) -> None:
    with Ledger(mulm.home.create().ledger) as facts:
        facts.create_run("run_3f2a00000000", "train", {"name": "poems"})
        facts.create_run("run_810000000000", "evaluate", {"model": "poems"})
    context = click.Context(COMMANDS["runs show"])
    assert run_names(context, context.command.params[0], "run_3") == ["run_3f2a00000000"]
    assert run_names(context, context.command.params[0], "po") == ["poems"]
    mulm.home.ledger.write_bytes(b"no database" * 1000)
    assert run_names(context, context.command.params[0], "") == []
    assert names_of("model")(context, context.command.params[0], "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_calls_mulm(shell: str, mulm: Any) -> None:
    code, out, err = mulm("completion", shell)
    assert (code, err) == (0, "")
    assert "_MULM_COMPLETE" in out
    told = mulm.json("completion", shell)
    assert told["shell"] == shell
    assert told["script"].strip() == out.strip()
    assert mulm("completion", "tcsh")[0] == EXIT_BY_CODE["config_invalid"]


def test_help_and_completion_load_nothing_heavy() -> None:
    heavy = ("torch", "ray", "numpy", "pyarrow", "fastapi", "httpx")
    program = f"import sys, jobs.cli; print(*{{*sys.modules}} & {{*{heavy!r}}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
