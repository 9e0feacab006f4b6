"""The tutorial "two PCs, one model" is followed to the letter, on two machines.

Its commands are read out of the page and run as they stand there, each on the machine that the page
names; the line to paste is the one that `mulm up --lan` has printed. A terminal that stays open
stays open.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.processes import Pack
from mulm.home import Home
from mulm.ledger import Ledger
from tests.cluster.joined.machines import Machine, needs_namespaces, two_machines
from tests.docs.test_readme import Block, all_marked

pytestmark = [pytest.mark.cluster, needs_namespaces]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
TO_PASTE = "mulm join 192.168.1.10:6379 --token mulm_join_...\n"
COMMAND_S = 420.0


class User:
    """Sits before both machines, and does what the page says."""

    def __init__(self, head: Machine, other: Machine, programs: Path) -> None:
        self.machines = {"head": head, "other": other}
        self.programs = programs
        self.printed: list[str] = []
        self.open: list[Terminal] = []

    def follow(self, mark: str, block: Block) -> None:
        """Type a block on its machine."""
        assert block.language == "sh"
        text = block.text
        if text == TO_PASTE:
            pasted = re.search(r"mulm join \S+ --token mulm_join_\w+", "".join(self.printed))
            assert pasted is not None
            self.open.append(self.terminal(mark, pasted[0]))
            self.open[-1].wait_for("joined ")
            return
        terminal = self.terminal(mark, text)
        assert terminal.process.wait(COMMAND_S) == 0, terminal.text()
        self.printed.append(terminal.text())

    def terminal(self, mark: str, text: str) -> Terminal:
        """A new one, in the folder of the repository."""
        machine = self.machines[mark]
        env = machine.env()
        env["PATH"] = f"{self.programs}:{env['PATH']}"
        return Terminal(machine.command("bash", "-euo", "pipefail", "-c", text), env)


class Terminal:
    """Something that runs, and what it prints."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """All that it printed; waits for the end of that where it has ended."""
        if self.process.poll() is not None:
            self._reader.join(10)
        return "".join(self._lines)

    def wait_for(self, word: str, timeout_s: float = 120.0) -> None:
        """Until it was printed."""
        with self._changed:
            is_there = self._changed.wait_for(lambda: word in "".join(self._lines), timeout_s)
        assert is_there, self.text()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        self.process.stdout.close()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    programs = tmp_path / "bin"
    programs.mkdir()
    mulm = programs / "mulm"  # also where the project is not installed
    mulm.write_text(f"#!{sys.executable}\nimport sys\n\nsys.path.insert(0, {str(ROOT)!r})\n"
                    "from jobs.cli import main\n\nmain()\n")  # fmt: skip
    mulm.chmod(0o755)
    with two_machines(tmp_path) as (head, other):
        user = User(head, other, programs)
        try:
            yield user
        finally:
            for mark, text in (("other", "mulm leave"), ("head", "mulm down")):
                user.terminal(mark, text).process.wait(COMMAND_S)
            for terminal in user.open:
                terminal.process.kill()
                terminal.process.wait(10)


def test_what_the_page_says_works(user: User) -> None:
    steps = all_marked(PAGE)
    assert [mark for mark, _ in steps] == ["head", "other", "head", "other", "head"]
    for mark, block in steps:
        user.follow(mark, block)
    (joining,) = user.open
    assert joining.process.wait(10) == 0
    _, both, _, model = user.printed
    assert re.search(r"^10\.77\.0\.1 .*head", both, re.M)
    assert re.search(r"^10\.77\.0\.2 .*worker", both, re.M)
    assert "ours@1" in both
    assert "ours@1" in model
    head = Home(user.machines["head"].home)
    with Ledger(head.ledger) as ledger:
        run = next(run for run in ledger.runs() if run.config.get("name") == "ours")
        texts = [str(e.data["text"]) for e in ledger.events(run.id, kinds=("log",))]
    for address in ("10.77.0.1", "10.77.0.2"):
        assert any(f"begins on {address}" in text for text in texts), texts
    assert not any("is lost" in text for text in texts), texts
    for machine in user.machines.values():
        assert not Pack(Home(machine.home)).find()
