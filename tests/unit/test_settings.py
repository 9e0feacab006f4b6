from __future__ import annotations

import pytest

from mulm.errors import ConfigError
from mulm.settings import Settings, variable_of


def test_defaults_are_loopback() -> None:
    settings = Settings.from_env({})
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8000)


def test_every_field_has_a_variable() -> None:
    env = {"MULM_HTTP_PORT": "0", "MULM_N_CPUS": "3", "MULM_DASHBOARD_PORT": ""}
    assert Settings.from_env(env) == Settings(http_port=0, n_cpus=3)
    assert variable_of("dashboard_port") == "MULM_DASHBOARD_PORT"


@pytest.mark.parametrize("text", ["http", "70000", "-1"])
def test_a_bad_value_names_its_variable(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"MULM_HTTP_PORT": text})
    assert caught.value.message.startswith("MULM_HTTP_PORT: ")
    assert text in caught.value.message


def test_two_servers_have_two_ports() -> None:
    env = {"MULM_HTTP_PORT": "9000", "MULM_DASHBOARD_PORT": "9000"}
    with pytest.raises(ConfigError, match="MULM_HTTP_PORT and MULM_DASHBOARD_PORT are both 9000"):
        Settings.from_env(env)
    assert Settings.from_env({"MULM_HTTP_PORT": "0", "MULM_DASHBOARD_PORT": "0"}).http_port == 0
