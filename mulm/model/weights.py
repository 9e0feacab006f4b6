"""Weights as bytes: named tensors in the safetensors format, and into a model.

Used for stored models and for training checkpoints. Invariant: reading runs no code, and names
and shapes fit the model or nothing is copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

from mulm.errors import CorruptError
from mulm.model.safetensors_file import TensorFiles, TensorSpec, safetensors_stream

Shapes = Mapping[str, tuple[int, ...]]


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format, names sorted."""
    return b"".join(tensors_stream(tensors))


def tensors_stream(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    """The same bytes in pieces; beside the tensors there is memory for one of them at most."""
    specs = {
        name: TensorSpec(tensors[name].dtype, tuple(tensors[name].shape))
        for name in sorted(tensors)
    }
    return safetensors_stream(specs, lambda name: tensor_bytes(tensors[name]))


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor, little-endian, in row order."""
    flat = tensor.detach().to("cpu").contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.nbytes)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Tensors by name, from bytes that were checked before."""
    tensors: dict[str, Tensor] = load(content)
    return tensors


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy weights by name into a model of the same shape.

    Raises:
        CorruptError: names or shapes differ; `what` is then named.
    """
    require_fit(shapes(weights), shapes(model.state_dict()), what)
    model.load_state_dict(dict(weights))


def load_file(path: Path, targets: Mapping[str, Tensor], what: str) -> None:
    """Fill every target from a safetensors file, converted to the target's type and device.

    Beside the targets there is memory for one tensor at most.

    Raises:
        CorruptError: the file is damaged, or names or shapes differ; `what` is then named.
        DataError: it has numbers of a type that we do not read.
    """
    with TensorFiles([path]) as files:
        require_fit(shapes(files.specs), shapes(targets), what)
        for name, target in targets.items():
            files.read_into(name, target)


def shapes(tensors: Mapping[str, Tensor | TensorSpec]) -> Shapes:
    """The shape of each."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def require_fit(have: Shapes, want: Shapes, what: str) -> None:
    """Refuse tensors that are not those that a config asks for.

    Raises:
        CorruptError: names or shapes differ; `what` has these tensors.
    """
    for name in sorted(have.keys() | want.keys()):
        if have.get(name) != want.get(name):
            found, wanted = (side.get(name, "missing") for side in (have, want))
            raise CorruptError(
                f"the weights of {what} do not fit their config: {name!r} is {found}",
                hint=f"by the config it is {wanted}; take both from the same version",
            )
