"""A terminal for the command line: one command at a time, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from mulm.home import Home


class CommandLine:
    """Runs `mulm` with an installation and a folder of its own."""

    def __init__(self, home: Home, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.folder, self._capsys = home, folder, capsys

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        """The exit code, stdout and stderr."""
        try:
            main(list(argv))
            code = 0
        except SystemExit as done:
            code = int(done.code or 0)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *argv: str) -> Any:
        code, out, err = self(*argv, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def mulm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    home = Home(tmp_path / "home")
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("MULM_HOME", str(home.root))
    for name in ("MULM_URL", "MULM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return CommandLine(home, folder, capsys)
