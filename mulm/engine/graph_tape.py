"""A double of CUDA graphs on a CPU: operations are written down and done again on the same memory.

Used by tests, in the place of `mulm.engine.graph_cuda`. What a graph cannot hold is refused: asking
what a tensor holds, and shapes that depend on it. What the host does between the operations is not
written down, as in a graph, so a step that is not of fixed shape gives wrong numbers when repeated.
Invariant: every repeated operation writes its results to where they were when it was written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ASKING = frozenset({
    "aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::allclose",
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::repeat_interleave", "aten::lift_fresh",
})  # fmt: skip
"""Operations for which the host waits, or that bring what the host holds."""
_SELECTING = frozenset({"aten::index", "aten::index_put", "aten::index_put_"})
"""Operations whose shapes depend on what a mask holds, where they are given one."""
_TELLING = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.__array__: "numpy"}
"""Methods that tell the host what a tensor holds without any operation."""


class NotRecordableError(RuntimeError):
    """The work needs the host."""


@dataclass(frozen=True, slots=True)
class _Operation:
    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    results: tuple[Tensor, ...]

    def repeat(self) -> None:
        again = tree_leaves(self.function(*self.arguments, **self.options))
        for result, new in zip(self.results, again, strict=True):
            if new is not result and new.data_ptr() != result.data_ptr():
                result.copy_(new)


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[_Operation] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in _ASKING or _has_mask(func, args):
            raise NotRecordableError(f"a graph cannot hold {func._schema.name}")
        results = func(*args, **(kwargs or {}))
        tensors = tuple(tree_leaves(results))
        if func._schema.is_mutable or not _storages(tensors) <= _storages(tree_leaves(args)):
            self.operations.append(_Operation(func, args, kwargs or {}, tensors))
        return results


class _Silence(TorchFunctionMode):
    """Refuses to tell the host what a tensor holds."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _TELLING:
            raise NotRecordableError(f"a graph cannot hold Tensor.{_TELLING[func]}")
        return func(*args, **(kwargs or {}))


def _has_mask(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Whether it selects by a mask: how much that is, the host has to know."""
    if function._schema.name not in _SELECTING:
        return False
    return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in arguments[1])


def _storages(values: Iterable[Any]) -> set[int]:
    """Where tensors lie; a view lies where its base does."""
    return {x.untyped_storage().data_ptr() for x in values if isinstance(x, Tensor)}


class TapeRecorder:
    """A `Recorder` of what is done on a CPU."""

    def __init__(self) -> None:
        self._tapes: list[_Tape] = []
        self.n_repeated = 0
        """How often anything that was recorded was repeated."""

    def record(self, act: Callable[[], None]) -> Callable[[], None]:
        """As `Recorder.record`."""
        tape = _Tape()
        with _Silence(), tape:
            act()
        self._tapes.append(tape)

        def repeat() -> None:
            assert tape in self._tapes, "what is forgotten is not repeated"
            self.n_repeated += 1
            with torch.inference_mode():
                for operation in tape.operations:
                    operation.repeat()

        return repeat

    def forget(self) -> None:
        """As `Recorder.forget`."""
        self._tapes.clear()

    @property
    def n_bytes(self) -> int:
        """As `Recorder.n_bytes`: what the results of all operations take."""
        kept = {
            result.untyped_storage().data_ptr(): result.untyped_storage().nbytes()
            for tape in self._tapes
            for operation in tape.operations
            for result in operation.results
        }
        return sum(kept.values())
