"""The measurement of a line, over one of known speed and no time of its own."""

from __future__ import annotations

import pytest

from actors.head_link import HeadLink, measured


class Line:
    """Takes 2 ms there and back, and so many bytes a second each way."""

    def __init__(self, up: float, down: float) -> None:
        self.up, self.down, self.now_s = up, down, 0.0
        self.content = b""
        self.sizes: list[int] = []

    def put(self, content: bytes) -> None:
        self.content = content
        self.sizes.append(len(content))
        self.now_s += 0.002 + len(content) / self.up

    def get(self) -> bytes:
        self.now_s += 0.002 + len(self.content) / self.down
        return self.content


@pytest.mark.parametrize(("up", "down"), [(12.5e6, 12.5e6), (1e6, 5e6), (2e4, 2e5), (1e9, 1e9)])
def test_both_ways_are_told_as_they_are_within_a_second_or_two(up: float, down: float) -> None:
    line = Line(up, down)
    link = measured(line, lambda: line.now_s, bytes)
    assert link.rtt_s == pytest.approx(0.002, rel=0.1)
    assert link.up_bytes_per_s == pytest.approx(up, rel=0.1)
    assert link.down_bytes_per_s == pytest.approx(down, rel=0.1)
    assert line.now_s < 5.0
    assert max(line.sizes) <= 16 << 20


def test_labels_are_numbers_a_person_reads() -> None:
    link = HeadLink(0.00042, 11.7e6, 0.15e6)
    assert link.labels() == {
        "mulm.rtt_ms": "0.4", "mulm.up_mbit": "94", "mulm.down_mbit": "1.2",
    }  # fmt: skip
