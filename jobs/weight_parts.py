"""The weights of a folder as files that a server takes: cut anew where one is too large to upload.

Called by `jobs.remote_exchange`. Invariants: tensors are never changed, only spread over other
files, with an index; the same weights are cut into the same bytes; of what is cut one file at a
time lies on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from mulm.atomic import atomic_file, write_atomic
from mulm.errors import ConfigError
from mulm.model.exchange_config import MOST_FILES
from mulm.model.hf_import import INDEX, OPTIONAL, REQUIRED, weight_files
from mulm.model.safetensors_file import (
    TensorFiles,
    TensorSpec,
    safetensors_stream,
    split_by_size,
    total_bytes,
)
from mulm.model.weights import tensor_bytes

_HEAD_BYTES = 8 << 20
"""More than the names and shapes of the tensors of one file take."""
_METADATA = {"format": "pt"}
_MOST_PARTS = MOST_FILES - len((*REQUIRED, *OPTIONAL, INDEX))
_HINT = (
    "import the folder on the server's own machine, name a model on a hub, or set"
    " MULM_MAX_UPLOAD_BYTES there to more"
)

Specs = Mapping[str, TensorSpec]


class WeightParts:
    """The weights of a folder in Hugging Face's layout.

    Args:
        folder: Has all files that its index names.
        limit_bytes: Of one file.
        most: Files, beside the index.

    Raises:
        ConfigError: a tensor alone is larger than that, or there are too many files.
    """

    def __init__(self, folder: Path, limit_bytes: int, most: int = _MOST_PARTS) -> None:
        self._paths = [folder / name for name in weight_files(folder)]
        index = folder / INDEX
        self._index = index if index.is_file() else None
        is_too_large = any(path.stat().st_size > limit_bytes for path in self._paths)
        is_cut = is_too_large or len(self._paths) > most
        self._cut = _cut(self._paths, limit_bytes) if is_cut else {}
        if len(self._cut) > most:
            raise ConfigError(
                f"the weights are {len(self._cut)} files of at most {limit_bytes:,} bytes, and a"
                f" server takes {most}",
                hint=_HINT,
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the files, in the order in which they come."""
        if self._cut:
            return (*self._cut, INDEX)
        return (*(path.name for path in self._paths), *([INDEX] if self._index else []))

    def files(self) -> Generator[Path, None, None]:
        """The files, one after the other; one that was cut is gone when the next is asked for.

        Raises:
            NoSpaceError: the disk of temporary files is full.
        """
        if not self._cut:
            yield from self._paths
            if self._index:
                yield self._index
            return
        with TemporaryDirectory() as place, TensorFiles(self._paths) as tensors:
            for name, specs in self._cut.items():
                path = Path(place, name)
                with atomic_file(path) as file:
                    for piece in safetensors_stream(
                        specs, lambda tensor: tensor_bytes(tensors.read(tensor)), _METADATA
                    ):
                        file.write(piece)
                yield path
                path.unlink()
            write_atomic(Path(place, INDEX), self._new_index())
            yield Path(place, INDEX)

    def _new_index(self) -> bytes:
        sizes = [total_bytes(specs.values()) for specs in self._cut.values()]
        places = {tensor: name for name, specs in self._cut.items() for tensor in specs}
        told = {"metadata": {"total_size": sum(sizes)}, "weight_map": places}
        return json.dumps(told, indent=2, sort_keys=True).encode()


def _cut(paths: list[Path], limit_bytes: int) -> dict[str, Specs]:
    """What each new file holds, by its name."""
    with TensorFiles(paths) as tensors:
        specs = dict(sorted(tensors.specs.items()))
    room_bytes = max(limit_bytes - _HEAD_BYTES, limit_bytes // 2)
    for name, spec in specs.items():
        if spec.size_bytes > room_bytes:
            raise ConfigError(
                f"the weights {name!r} have {spec.size_bytes:,} bytes, and a server takes"
                f" {room_bytes:,} in one file",
                hint=_HINT,
            )
    parts = split_by_size(specs, room_bytes)
    total = len(parts)
    return {f"model-{n:05d}-of-{total:05d}.safetensors": one for n, one in enumerate(parts, 1)}
