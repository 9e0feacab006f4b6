"""Exporters by name: what `export_to` in a training config knows.

Used by the entry points, which refuse a name whose package is absent before anything starts, and by
the run's metrics. Light: needs no torch, and imports no exporter's package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType

from mulm.errors import ConfigError
from mulm.train.exporters.background import Background
from mulm.train.exporters.base import Exporter, RunFacts

ALWAYS = "tensorboard"
"""Written where its package is there, asked for or not."""

EXPORTERS: Mapping[str, str] = MappingProxyType(
    {
        ALWAYS: "mulm.train.exporters.tensorboard:TensorBoardExporter",
        "wandb": "mulm.train.exporters.wandb:WandbExporter",
        "trackio": "mulm.train.exporters.trackio:TrackioExporter",
        "mlflow": "mulm.train.exporters.mlflow:MlflowExporter",
    }
)
"""Class by name; the name is that of the package, and of the extra that installs it."""


def require_exporters(names: Iterable[str]) -> None:
    """Find out now whether a run can tell what it is to tell.

    Raises:
        ConfigError: the package of one of them is not installed here.
    """
    for name in names:
        if not has_package(name):
            raise ConfigError(
                f"export_to: the package {name!r} is not installed",
                hint=f"pip install 'mulm[{name}]' on each machine, or leave {name} away",
            )


def has_package(name: str) -> bool:
    """Whether an exporter can be opened here."""
    return find_spec(name) is not None


def open_exporters(names: Iterable[str], run: RunFacts) -> list[Background]:
    """Those, each in a thread of its own, and TensorBoard where its package is there."""
    always = [ALWAYS] if has_package(ALWAYS) else []
    return [Background(name, _maker(name, run)) for name in dict.fromkeys((*always, *names))]


def _maker(name: str, run: RunFacts) -> Callable[[], Exporter]:
    def make() -> Exporter:
        module, _, cls = EXPORTERS[name].partition(":")
        exporter: Exporter = getattr(import_module(module), cls)(run)
        return exporter

    return make
