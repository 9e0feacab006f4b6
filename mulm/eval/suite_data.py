"""The files of suites: those that a person names, the bundled sample, or those on the hub.

Called with an evaluation's config by the command line, for the run's identity, and by the job.
Needs no torch. Invariants: a suite that is named has its files, or it is an error; one that only
"all" brings in and that cannot be had is passed over, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import suffixes_of
from mulm.data.sources.listing import checksum
from mulm.data.sources.remote import fetch, is_remote
from mulm.errors import AuthError, DeadlineError, MulmError, NotFoundError, UnreachableError
from mulm.eval.config import EvaluateConfig
from mulm.eval.suites.base import GenerationSuite
from mulm.eval.suites.registry import ALL, SUITES

HUB = "hub"
"""What stands for a path where the files on the hub are meant."""

_SHOTS = ":shots"
_NOT_HERE = (NotFoundError, UnreachableError, DeadlineError, AuthError)
_SUFFIXES = suffixes_of("jsonl", "parquet")

Find = Callable[[str], list[SourceFile]]


@dataclass(frozen=True, slots=True)
class SuiteFiles:
    """Where the items of a suite are, and the worked examples; none: among the items."""

    origin: Literal["sample", "file", "hub"]
    items: tuple[SourceFile, ...]
    shots: tuple[SourceFile, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What a score depends on: the files' contents."""
        return {
            "items": [checksum(str(file.path)) for file in self.items],
            "shots": [checksum(str(file.path)) for file in self.shots],
        }


@dataclass(frozen=True, slots=True)
class SuiteData:
    """The files of each suite of a config, and why one is passed over."""

    files: Mapping[str, SuiteFiles]
    skipped: Mapping[str, str]


def find_suites(config: EvaluateConfig, samples: Path, cache: Path) -> SuiteData:
    """Find the files of every suite, or bring them.

    Args:
        config: Which suites, and the files that were named.
        samples: The folder of the bundled samples.
        cache: Where files from elsewhere are kept.

    Raises:
        NotFoundError: a file that was named is not there.
        ConfigError, AuthError, DeadlineError: as of `remote.fetch`.
    """
    files: dict[str, SuiteFiles] = {}
    skipped: dict[str, str] = {}

    def find(path: str) -> list[SourceFile]:
        return _found(path, cache)

    is_hub_away = False
    for name in config.suite_names:
        is_asked = ALL not in config.suites or name in config.suites or name in config.data
        if is_hub_away and not is_asked and not _is_here(name, samples):
            skipped[name] = "the hub cannot be reached"
            continue
        try:
            files[name] = _files(name, config.data, samples, find)
        except _NOT_HERE as error:
            if is_asked:
                raise _with_advice(error, name) from None
            is_hub_away = not isinstance(error, NotFoundError)
            skipped[name] = error.message
    return SuiteData(files, skipped)


def _files(name: str, data: Mapping[str, str], samples: Path, find: Find) -> SuiteFiles:
    suite, given = SUITES[name], data.get(name)
    shots = data.get(name + _SHOTS, "")
    if given not in (None, HUB):
        return SuiteFiles("file", tuple(find(given)), tuple(find(shots) if shots else ()))
    if given is None and _is_here(name, samples):
        return SuiteFiles("sample", tuple(find(str(samples / suite.sample))))
    if isinstance(suite, GenerationSuite):
        shots = shots or suite.hub_shots
    return SuiteFiles("hub", tuple(find(suite.hub)), tuple(find(shots) if shots else ()))


def _is_here(name: str, samples: Path) -> bool:
    return bool(SUITES[name].sample) and (samples / SUITES[name].sample).is_file()


def _found(path: str, cache: Path) -> list[SourceFile]:
    if is_remote(path):
        return fetch(SourceSpec(path=path), cache)
    return find_files(path, _SUFFIXES)


def _with_advice(error: MulmError, name: str) -> MulmError:
    advice = f"or name a file of it: --data {name}=FILE"
    hint = f"{error.hint}; {advice}" if error.hint else advice
    return type(error)(error.message, hint=hint, **error.details)
