"""The machines of the application for a person, and one that is let go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from actors.nodes import described
from jobs import cli_cluster
from jobs.cli_cluster import node_lines
from tests.unit.actors.test_nodes import HEAD, LAPTOP, actor
from tests.unit.jobs.test_cli import run

GOOD_LINE = {**LAPTOP, "Labels": {**LAPTOP["Labels"], "mulm.down_mbit": "93"}}


def test_a_line_tells_what_a_machine_gives() -> None:
    actors = [actor("IslandWorker", "bb"), actor("ServeReplica:demo:EngineReplica", "bb")]
    actors += [actor("IslandWorker", "bb")]
    nodes = described([HEAD, GOOD_LINE], {"bb": 1_000_000}, actors)
    head, laptop = node_lines(nodes, lambda: 1_000 + 7_200)
    assert head.split() == ["10.0.0.1", "head", "8", "CPUs", "1.0", "GB"]
    assert "laptop  worker  guest  4 CPUs  1 GPUs RTX-3060 12 GiB" in laptop
    assert "93/94 Mbit/s, 0.4 ms  for 2 h  engine demo, 2 x island" in laptop


class Api:
    """Lets a machine go after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks, self.posted = looks, []  # type: ignore[var-annotated]

    def post(self, path: str) -> Any:
        self.posted.append(path)
        return self

    def json(self) -> dict[str, Any]:
        return described([LAPTOP])[0]

    def get(self, path: str) -> dict[str, Any]:
        self.looks -= 1
        return {"data": described([HEAD, {**LAPTOP, "Alive": self.looks > 0}])}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    served = Api(3)

    @contextmanager
    def opened() -> Iterator[Api]:
        yield served

    monkeypatch.setattr(cli_cluster, "open_api", opened)
    monkeypatch.setattr(cli_cluster, "_POLL_S", 0.0)
    return served


def test_one_that_is_let_go_is_waited_for(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "cluster", "leave", "lap/top")
    assert (code, out) == (0, "laptop has left\n"), err
    assert api.posted == ["cluster/nodes/lap%2Ftop/leave"]
    assert api.looks == 0


def test_one_that_stays_is_not_waited_for_for_ever(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_cluster, "_GONE_WITHIN_S", 0.05)
    api.looks = 1 << 30
    code, _, err = run(capsys, "cluster", "leave", "laptop")
    assert code != 0
    assert "has not left within" in err
