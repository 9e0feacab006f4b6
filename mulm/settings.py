"""How the application is started on this machine: ports and size, read from `MULM_*` variables.

Read once by `mulm up` and passed down. Few knobs: what can be computed is not a setting.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mulm.accounts import Amount, Rates
from mulm.config import Frozen, parse_config
from mulm.errors import ConfigError, UnknownNameError

Port = Annotated[int, Field(ge=0, le=65535)]


def _apart(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_apart)]
"""In a variable with commas between them."""

_WHOLE_PLACE = re.compile(r"https?://[^/@?#\\\s]+/([^?#\\\s]*/)?")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/@?#\\\s]+")
_PREFIX = "MULM_"
MAX_UPLOAD_BYTES = 512 << 20
FEWEST_PORTS = 64
"""Every process that works for the cluster on a machine has one, and Ray's own have six."""


class Settings(Frozen):
    """What `mulm up` can be told; every field is also the variable `MULM_<FIELD>`."""

    http_host: str = "127.0.0.1"
    """Where the HTTP API listens; anything but loopback opens it to the network."""
    http_port: Port = 8000
    """0 takes any free port."""
    ingress_replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """Processes that answer HTTP on that port, all on the head's machine."""
    tls_cert: Path | None = None
    """A certificate with its chain (PEM): then the API speaks HTTPS; needs `tls_key`."""
    tls_key: Path | None = None
    """The certificate's private key (PEM)."""
    allowed_hosts: Names = ()
    """Names by which a proxy on this machine is reached, beside those of loopback."""
    requests_per_minute: Amount | None = None
    """Of all keys together."""
    tokens_per_minute: Amount | None = None
    """Of prompts and answers, of all keys together."""
    max_concurrent: Amount | None = None
    """Requests to models that are answered at the same time, of all keys together."""
    cors_origins: Names = ()
    """Origins whose web pages may call the API, such as `https://app.example`; none by default."""
    source_urls: Names = ()
    """Beginnings of addresses from which clients of the API may have data fetched, such as
    `https://data.example/corpora/`; none by default."""
    max_upload_bytes: Annotated[int, Field(ge=1, le=1 << 40)] = MAX_UPLOAD_BYTES
    """Of one file that a client of the API uploads; the disk holds it, memory does not."""
    otlp_endpoint: str | None = None
    """Where traces of requests go, by OTLP over HTTP: `http://127.0.0.1:4318/v1/traces`."""
    dashboard_port: Port = 8265
    """Ray's dashboard and job API, always on loopback; 0 takes any free port."""
    cluster_host: str = "127.0.0.1"
    """Where the cluster listens: an address of this machine on the network opens it to others."""
    cluster_port: Port = 6379
    """Where other machines join, if it is open."""
    cluster_ports: str = "6380-6579"
    """What else an open cluster listens on, on every machine: the range that a firewall opens."""
    n_cpus: Annotated[int, Field(ge=1)] | None = None
    """CPUs that Ray may hand out; by default those of the machine, at least 2."""
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = 256_000_000
    """Shared memory for what workers hand each other."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        if self.http_port == self.dashboard_port != 0:
            raise ValueError(
                f"{variable_of('http_port')} and {variable_of('dashboard_port')} are both"
                f" {self.http_port}: choose two, or 0 for free ones"
            )
        return self

    @model_validator(mode="after")
    def _ports_are_apart(self) -> Settings:
        if self.cluster_port in self.port_range:
            raise ValueError(
                f"{variable_of('cluster_port')} {self.cluster_port} is one of"
                f" {variable_of('cluster_ports')} {self.cluster_ports}: choose another"
            )
        return self

    @model_validator(mode="after")
    def _has_both_halves(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                f"{variable_of('tls_cert')} and {variable_of('tls_key')} belong together"
            )
        for field, path in (("tls_cert", self.tls_cert), ("tls_key", self.tls_key)):
            if path is not None and not path.is_file():
                raise ValueError(f"{variable_of(field)}: no such file: {str(path)!r}")
        if self.tls is not None:
            _require_pair(*self.tls)
        return self

    @field_validator("source_urls")
    @classmethod
    def _are_whole_places(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        """With a whole host and whole folders, so that no other one begins like it."""
        for url in urls:
            if not _WHOLE_PLACE.fullmatch(url):
                raise ValueError(f"{url!r} is not like https://host/ or https://host/folder/")
        return urls

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers send them: any other text would match no page."""
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not like https://host or http://host:3000, or *")
        return origins

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        """Other processes read it, in other folders."""
        return None if path is None else path.expanduser().absolute()

    @field_validator("cluster_ports")
    @classmethod
    def _is_a_range(cls, text: str) -> str:
        first, dash, last = text.replace(" ", "").partition("-")
        is_sound = dash and first.isdecimal() and last.isdecimal()
        if not (is_sound and 1024 <= int(first) < int(last) <= 65535):
            raise ValueError(f"{text!r} is no range of ports like 6380-6579")
        if int(last) - int(first) + 1 < FEWEST_PORTS:
            raise ValueError(f"{text!r} has fewer than {FEWEST_PORTS} ports: each process has one")
        return f"{first}-{last}"

    @field_validator("cluster_host")
    @classmethod
    def _is_one_address(cls, host: str) -> str:
        """Machines tell each other this address, so it is no name and no wildcard."""
        try:
            address = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IPv4 address") from None
        if address.is_unspecified:
            raise ValueError("name one address of this machine, such as 192.168.1.10")
        return host

    @property
    def is_open(self) -> bool:
        """Whether other machines may join the cluster."""
        return not ipaddress.IPv4Address(self.cluster_host).is_loopback

    @property
    def port_range(self) -> range:
        """The ports of `cluster_ports`."""
        first, _, last = self.cluster_ports.partition("-")
        return range(int(first), int(last) + 1)

    @property
    def rates(self) -> Rates:
        """The limits of all keys together."""
        return Rates(**{name: getattr(self, name) for name in Rates.model_fields})

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """Certificate and key, where the API speaks HTTPS."""
        return (
            None if self.tls_cert is None or self.tls_key is None else (self.tls_cert, self.tls_key)
        )

    def to_env(self) -> dict[str, str]:
        """The same settings as variables, for the processes of the application."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {
            variable_of(field): ",".join(value) if isinstance(value, list) else str(value)
            for field, value in values.items()
        }

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """The settings in the environment; empty variables count as absent.

        Raises:
            ConfigError: a value that does not fit, named by its variable.
        """
        given = {field: env.get(variable_of(field), "") for field in cls.model_fields}
        try:
            return parse_config(cls, {field: text for field, text in given.items() if text})
        except (ConfigError, UnknownNameError) as error:
            field, colon, rest = error.message.partition(":")
            if field not in cls.model_fields:
                raise
            raise ConfigError(f"{variable_of(field)}{colon}{rest}", hint=error.hint) from None


def _require_pair(cert: Path, key: Path) -> None:
    """A client on this machine need not be allowed to read the key: then the server finds out."""
    names = f"{variable_of('tls_cert')} and {variable_of('tls_key')}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError:
        raise ValueError(
            f"{names} are no certificate and its key: {str(cert)!r} and {str(key)!r} must be PEM,"
            " the key without a password"
        ) from None
    except OSError:
        return


def variable_of(field: str) -> str:
    """The environment variable of a setting: `http_port` is `MULM_HTTP_PORT`."""
    return _PREFIX + field.upper()
