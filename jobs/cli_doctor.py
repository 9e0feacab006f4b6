"""`mulm doctor`: what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import click

from jobs.cli_verbs import is_quiet, with_json
from jobs.exit_codes import FAULTS_FOUND
from mulm.home import Home
from mulm.terminal_text import harmless

_MARKS = {"ok": "ok", "warning": "warn", "fault": "FAULT"}


@click.command()
@with_json
def doctor(as_json: bool) -> None:
    """Look for the likely faults of this installation, and say how to mend each.

    Changes nothing. Ends with exit code 30 if something does not work; warnings alone end with 0.
    With --quiet only what is wrong is told.

    \b
    Example:  mulm doctor
              mulm doctor --json | jq '.findings[] | select(.level != "ok")'
    """
    from jobs.doctor import examine
    from jobs.doctor_finding import these_surroundings

    findings = []
    for found in examine(these_surroundings(Home.from_env(), os.environ)):
        findings.append(found)
        if not as_json and not (is_quiet() and found.level == "ok"):
            line = f"{_MARKS[found.level]:<6} {found.check:<14} {found.told}"
            click.echo(harmless(line + f"\n       {'':<14} do: {found.fix}" * bool(found.fix)))
    count = {level: sum(found.level == level for found in findings) for level in _MARKS}
    if as_json:
        told = {"is_healthy": not count["fault"], "findings": [asdict(one) for one in findings]}
        click.echo(json.dumps(told))
    elif not is_quiet():
        click.echo(f"faults: {count['fault']}, warnings: {count['warning']}")
    if count["fault"]:
        sys.exit(FAULTS_FOUND)
