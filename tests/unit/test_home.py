from __future__ import annotations

from pathlib import Path

import pytest

from mulm.errors import ConfigError
from mulm.home import Home


def test_from_env(tmp_path: Path) -> None:
    assert Home.from_env({"MULM_HOME": str(tmp_path)}).root == tmp_path
    assert Home.from_env({}).root == Path.home() / ".mulm"
    assert Home.from_env({"MULM_HOME": "~/x"}).root == Path.home() / "x"


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for root in (file, file / "below", Path("/proc/none")):
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            Home(root).create()
        assert "MULM_HOME" in caught.value.hint


def test_is_closed_to_others_and_made_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home").create().create()
    assert home.root.stat().st_mode & 0o777 == 0o700
    paths = [home.store, home.ledger, home.api_key, home.ray_token, home.cluster, home.run("r")]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(home.root) for path in paths)
