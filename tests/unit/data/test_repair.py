from __future__ import annotations

import sys

import pytest

from mulm.data.repair import repair
from mulm.errors import ConfigError


@pytest.mark.parametrize(
    ("damaged", "whole"),
    [
        ("Plain &amp; simple.", "Plain &amp; simple."),
        ("CafÃ© au lait\nand &lt;b&gt;", "Café au lait\nand &lt;b&gt;"),
        ("donâ€™t", "don’t"),
        ("“Curly”, ﬁne and ＷＩＤＥ", "“Curly”, ﬁne and ＷＩＤＥ"),
        ("schön\r\nund gut", "schön\r\nund gut"),
    ],
)
def test_repair(damaged: str, whole: str) -> None:
    assert repair(damaged) == whole


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert repair("ascii") == "ascii"
    with pytest.raises(ConfigError, match="ftfy"):
        repair("é")
