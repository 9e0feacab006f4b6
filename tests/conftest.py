"""What all tests share: a home of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mulm.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()
