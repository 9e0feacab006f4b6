"""A head and another machine, for all tests here that need no head of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.joined.machines import run, two_machines
from tests.cluster.joined.pair import DEADLINE_S, MULM, Pair


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    with two_machines(folder) as (head, other):
        done = run(head, [*MULM, "up", "--lan", head.address, "--json"], DEADLINE_S)
        try:
            assert done.returncode == 0, done.stderr
            line = json.loads(done.stdout.splitlines()[-1])["join"].split()
            assert line[:2] == ["mulm", "join"]
            yield Pair(head, other, line[2], line[4])
        finally:
            run(other, [*MULM, "leave"], DEADLINE_S)
            run(head, [*MULM, "down"], DEADLINE_S)
