"""How the application is started on this machine: ports and size, read from `MULM_*` variables.

Read once by `mulm up` and passed down. Few knobs: what can be computed is not a setting.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from mulm.config import Frozen, parse_config
from mulm.errors import ConfigError, UnknownNameError

Port = Annotated[int, Field(ge=0, le=65535)]

_PREFIX = "MULM_"


class Settings(Frozen):
    """What `mulm up` can be told; every field is also the variable `MULM_<FIELD>`."""

    http_host: str = "127.0.0.1"
    """Where the HTTP API listens; anything but loopback opens it to the network."""
    http_port: Port = 8000
    """0 takes any free port."""
    dashboard_port: Port = 8265
    """Ray's dashboard and job API, always on loopback; 0 takes any free port."""
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


def variable_of(field: str) -> str:
    """The environment variable of a setting: `http_port` is `MULM_HTTP_PORT`."""
    return _PREFIX + field.upper()
