from __future__ import annotations

from pathlib import Path

from mulm.home import Home


def test_from_env(tmp_path: Path) -> None:
    assert Home.from_env({"MULM_HOME": str(tmp_path)}).root == tmp_path
    assert Home.from_env({}).root == Path.home() / ".mulm"
    assert Home.from_env({"MULM_HOME": "~/x"}).root == Path.home() / "x"


def test_is_closed_to_others_and_made_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home").create().create()
    assert home.root.stat().st_mode & 0o777 == 0o700
    paths = [home.store, home.ledger, home.api_key, home.ray_token, home.cluster, home.run("r")]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(home.root) for path in paths)
