"""`mulm join` and `mulm leave`: this machine as a part of another one's application."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from jobs.cli_verbs import print_result, with_json
from mulm.home import Home


@click.command()
@click.argument("head", metavar="HOST[:PORT]")
@click.option("--token", help="As `mulm up --lan` printed it, or @FILE.")
@click.option("--name", default="", help="What this machine is called; its host name if not given.")
@click.option(
    "--trust",
    type=click.Choice(["family", "guest"]),
    default="family",
    show_default=True,
    help="A label of this machine, which `mulm cluster nodes` shows; nothing decides by it yet.",
)
@click.option(
    "--install",
    "is_installed",
    is_flag=True,
    help="Join now and after every reboot, by a unit of systemd of this user.",
)
@with_json
def join(
    head: str, token: str | None, name: str, trust: str, is_installed: bool, as_json: bool
) -> None:
    """Lend this machine to the application on HOST, until Ctrl-C or `mulm leave`.

    Versions of Python, Ray, torch and the project are compared before anything starts. Where the
    network or the head goes away, this machine joins again by itself.

    \b
    Example:  mulm join 192.168.1.10:6379 --token mulm_join_...
              mulm join 192.168.1.10          # again, with the token of the last time
              mulm join 192.168.1.10 --install
    """
    from jobs.join import prepare
    from jobs.membership import stay

    home = Home.from_env()
    if token is not None and token.startswith("@"):
        token = Path(token[1:]).expanduser().read_text()
    if is_installed:
        address = prepare(home, head, token)
        _install(home, address, name, trust, as_json)
        return
    if token is not None:
        prepare(home, head, token)
        # Begun again without it: a command line is for all to see, and this one runs for days.
        again = [sys.executable, "-c", "from jobs.cli import main; main()", "join", head]
        again += ["--json"] if as_json else []
        os.execv(sys.executable, [*again, "--name", name, "--trust", trust])  # noqa: S606
    address = prepare(home, head, None)

    def tell(text: str) -> None:
        click.echo(json.dumps({"text": text}) if as_json else text, err=not as_json)

    stay(home, address, name, trust, tell)


def _install(home: Home, head: str, name: str, trust: str, as_json: bool) -> None:
    from jobs.join_unit import NAME, join_unit
    from jobs.user_unit import install

    path = install(NAME, join_unit(home, head, name, trust, os.environ))
    facts = {"unit": str(path), "head": head}
    text = f"{NAME} joins {{head}} now and at every login; `journalctl --user -u {NAME}` shows it"
    text += "\nwithout a login after a reboot:  sudo loginctl enable-linger $USER"
    print_result(facts, as_json, text)


@click.command()
@click.option("--uninstall", "is_uninstalled", is_flag=True, help="Undo `mulm join --install` too.")
@with_json
def leave(is_uninstalled: bool, as_json: bool) -> None:
    """Take this machine back from the application that it has joined; harmless if it has not.

    Training here ends after the step that is under way, and engines finish what they answer, within
    20 seconds; what an island has learned is handed to the others. Everything else ends at once.

    \b
    Example:  mulm leave
              mulm leave --uninstall
    """
    from jobs.join import leave as leave_now
    from jobs.join_unit import NAME
    from jobs.user_unit import uninstall

    home = Home.from_env()
    facts = {"had_joined": home.joined.exists()}
    if is_uninstalled:
        facts["was_installed"] = uninstall(NAME)
    facts["had_joined"] = leave_now(home) or facts["had_joined"]
    text = "left" if facts["had_joined"] else "it had not joined"
    if facts.get("was_installed"):
        text += ", and does not join again after a reboot"
    print_result(facts, as_json, text)
