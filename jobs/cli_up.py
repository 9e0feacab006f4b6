"""`mulm up` and `mulm down`: the application on this machine, now or at every login."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from jobs.cli_verbs import print_result, with_json
from mulm.home import Home

if TYPE_CHECKING:
    from actors.cluster_info import ClusterInfo
    from mulm.settings import Settings


@click.command()
@click.option(
    "--lan",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="auto",
    help="Let other machines join, at this address of this machine; found if not given.",
)
@click.option(
    "--install",
    "is_installed",
    is_flag=True,
    help="Start it now and after every reboot, by a unit of systemd of this user.",
)
@with_json
def up(as_json: bool, is_installed: bool, lan: str | None) -> None:
    """Start the application on this machine, for this machine alone or for others to join.

    With --lan it prints the line that another machine joins with. Whoever has that line can run
    anything on all of them.

    \b
    Example:  mulm up
              mulm up --lan
              mulm up --lan --install
              MULM_HTTP_PORT=8001 mulm up
    """
    from jobs.up import lan_settings, start
    from mulm.settings import Settings

    home, settings = Home.from_env(), Settings.from_env()
    chosen = lan_settings(settings, lan) if lan else settings
    if is_installed:
        facts, text = _installed(home, settings, lan)
    else:
        facts, text = _told(home, settings, start(home, chosen))
    print_result(facts, as_json, text)


def _installed(home: Home, settings: Settings, lan: str | None) -> tuple[dict[str, Any], str]:
    from actors.cluster_info import read_info
    from jobs.admission import require_free
    from jobs.up_unit import NAME, up_unit
    from jobs.user_unit import install

    require_free(home)
    path = install(NAME, up_unit(home.create(), settings, lan, os.environ))
    info = read_info(home)
    facts, text = _told(home, settings, info) if info else ({}, "")
    text += f"\n{NAME} starts it at every login; `journalctl --user -u {NAME}` shows what it says"
    text += "\nwithout a login after a reboot:  sudo loginctl enable-linger $USER"
    return facts | {"unit": str(path)}, text.lstrip()


def _told(home: Home, settings: Settings, info: ClusterInfo) -> tuple[dict[str, Any], str]:
    """What there is to know of an application that is up, and the sentences for it."""
    from jobs.up import join_line

    facts = {"dashboard": info.dashboard_url, "api": info.api_url, "home": str(home.root)}
    text = "up: dashboard {dashboard}, API {api}"
    if info.is_open:
        facts["join"] = join_line(home, info)
        facts["ports"] = f"{info.gcs_address.rpartition(':')[2]} and {settings.cluster_ports}"
        text += "\non another machine:  {join}"
        text += "\nits firewall, and the one there, must let each other in: TCP {ports}"
    return facts, text


@click.command()
@click.option("--uninstall", "is_uninstalled", is_flag=True, help="Undo `mulm up --install` too.")
@with_json
def down(is_uninstalled: bool, as_json: bool) -> None:
    """Stop the application and everything it started; harmless when it is down.

    Runs under way have some seconds to write a checkpoint; `mulm runs resume` goes on with them.
    What `mulm up --install` has installed starts it again after the next reboot.

    \b
    Example:  mulm down
              mulm down --uninstall
    """
    from jobs.up import stop
    from jobs.up_unit import NAME
    from jobs.user_unit import uninstall

    home = Home.from_env()
    facts = {"was_up": stop(home)}
    text = "down" if facts["was_up"] else "it was not up"
    if is_uninstalled:
        facts["was_installed"] = uninstall(NAME)
        text += ", and does not start again after a reboot" if facts["was_installed"] else ""
    print_result(facts, as_json, text)
