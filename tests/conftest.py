"""What all tests share: a home of their own, and property tests that no busy machine fails."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from mulm.home import Home

# Run in the background, a shell has us ignore SIGINT, and all that we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no counterexample.
settings.register_profile("any_machine", deadline=None)
settings.load_profile("any_machine")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()
