"""Given rows are read as they were written, or said to be damaged; a leader is one of its life."""

from __future__ import annotations

from pathlib import Path

import pytest

from mulm.errors import CorruptError, MulmError
from mulm.train.sync.aggregator import RoundPlan
from mulm.train.sync.kept_rows import NAME, KeptRows
from mulm.train.sync.outer_host import OuterHost
from mulm.train.sync.rounds import Standing

ROWS = {"line": 40, "open": [(8, 16)], "leader": "a"}


def test_they_come_back_and_the_leader_in_its_own_life_alone(tmp_path: Path) -> None:
    assert KeptRows(tmp_path, "one").read() is None
    KeptRows(tmp_path, "one").write(ROWS)
    assert KeptRows(tmp_path, "one").read() == ROWS
    assert KeptRows(tmp_path, "other").read() == {**ROWS, "leader": ""}


def test_the_same_rows_are_written_once(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path, "one")
    kept.write(ROWS)
    (tmp_path / NAME).unlink()
    kept.write(dict(ROWS))
    assert kept.read() is None
    kept.write({**ROWS, "line": 48})
    assert (kept.read() or {})["line"] == 48


def test_rows_that_could_not_be_written_are_written_with_the_next_question(tmp_path: Path) -> None:
    kept = KeptRows(tmp_path / "full", "one")
    (tmp_path / "full").write_bytes(b"a file where the folder should be")
    with pytest.raises((MulmError, OSError)):
        kept.write(ROWS)
    (tmp_path / "full").unlink()
    kept.write(ROWS)
    assert kept.read() == ROWS


@pytest.mark.parametrize("hurt", [(b"40", b"41"), (b"}", b""), (b"{", b"[{"), (b"sha256", b"sha")])
def test_another_digit_or_shape_is_damage(tmp_path: Path, hurt: tuple[bytes, bytes]) -> None:
    KeptRows(tmp_path, "one").write(ROWS)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(*hurt))
    with pytest.raises(CorruptError):
        KeptRows(tmp_path, "one").read()


def test_an_aggregator_begins_without_rows_that_are_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    KeptRows(tmp_path, "one").write(ROWS)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b"40", b"41"))
    host = OuterHost(tmp_path, RoundPlan(n_rows=80, granule=8), "127.0.0.1", "the secret")
    try:
        assert "the rows that were given are not known" in caplog.text
        host.aggregator.join("a", Standing((10,), (0,)))
        assert host.aggregator.lease("a", 8, 0).start == 0
    finally:
        host.close()
