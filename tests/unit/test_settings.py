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


def test_settings_travel_in_the_environment_of_the_application(certificate) -> None:
    cert, key = certificate
    given = Settings(
        http_host="0.0.0.0", allowed_hosts=("a.home", "b.home"), tls_cert=cert, tls_key=key
    )
    assert Settings.from_env(given.to_env()) == given
    assert given.tls == (cert, key)
    assert Settings().tls is None


def test_a_certificate_needs_its_key_and_both_must_be_there(tmp_path) -> None:
    (tmp_path / "cert.pem").touch()
    env = {"MULM_TLS_CERT": str(tmp_path / "cert.pem")}
    with pytest.raises(ConfigError, match="belong together"):
        Settings.from_env(env)
    with pytest.raises(ConfigError, match="MULM_TLS_KEY: no such file"):
        Settings.from_env(env | {"MULM_TLS_KEY": str(tmp_path / "key.pem")})


def test_certificate_and_key_are_a_pair(certificate) -> None:
    cert, key = map(str, certificate)
    for wrong in ((key, cert), (cert, cert), (key, key)):
        with pytest.raises(ConfigError, match="MULM_TLS_CERT and MULM_TLS_KEY are no certificate"):
            Settings.from_env(dict(zip(("MULM_TLS_CERT", "MULM_TLS_KEY"), wrong, strict=True)))


def test_a_key_that_only_the_server_may_read_is_its_matter(certificate, monkeypatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ssl.SSLContext.load_cert_chain", refuse)
    assert Settings(tls_cert=certificate[0], tls_key=certificate[1]).tls == certificate


def test_places_of_data_are_whole_hosts_and_folders() -> None:
    given = "https://data.example/, http://10.0.0.2:80/corpora/"
    assert Settings.from_env({"MULM_SOURCE_URLS": given}).source_urls == (
        "https://data.example/", "http://10.0.0.2:80/corpora/",
    )  # fmt: skip
    for bad in ("https://data.example", "https://a@b/", "file:///", "https://a/b", "hf://x/", "/"):
        with pytest.raises(ConfigError, match="MULM_SOURCE_URLS"):
            Settings.from_env({"MULM_SOURCE_URLS": bad})


def test_origins_of_pages_are_whole() -> None:
    given = "https://a.example, http://localhost:3000"
    assert len(Settings.from_env({"MULM_CORS_ORIGINS": given}).cors_origins) == 2
    assert Settings.from_env({"MULM_CORS_ORIGINS": "*"}).cors_origins == ("*",)
    for wrong in ("foo", "a.example:80", "https://a.example/", "https://a.example/page"):
        with pytest.raises(ConfigError, match="is not like https://host"):
            Settings.from_env({"MULM_CORS_ORIGINS": wrong})
