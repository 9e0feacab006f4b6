"""Records a GPU's work as CUDA graphs.

Given to the engine where its model lies on a GPU. Invariants: all graphs share one pool of memory,
so what they need together is what the largest needs, and no two of them may run at once; what an
earlier one left in the pool is gone when another has run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mulm.model.batch import LanguageModel, RowModel

_N_WARM_UPS = 2
"""Libraries take their workspaces and choose their kernels at first, which no graph can hold."""


class CudaRecorder:
    """A `Recorder` on one GPU.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._free_bytes = 0

    def record(self, act: Callable[[], None]) -> Callable[[], None]:
        """As `Recorder.record`."""
        with torch.cuda.device(self._device):
            if not self._graphs:
                torch.cuda.empty_cache()
                self._free_bytes = torch.cuda.mem_get_info()[0]
            before = torch.cuda.current_stream()
            try:
                graph = self._capture(act)
            finally:
                torch.cuda.set_stream(before)  # one that fails leaves its own
        self._graphs.append(graph)
        return graph.replay

    def _capture(self, act: Callable[[], None]) -> torch.cuda.CUDAGraph:
        before = torch.cuda.current_stream()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            for _ in range(_N_WARM_UPS):
                act()
        before.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, in which another model is loaded, may allocate meanwhile.
        mode = "thread_local"
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
            act()
        return graph

    def forget(self) -> None:
        """As `Recorder.forget`."""
        torch.cuda.synchronize(self._device)
        for graph in self._graphs:
            graph.reset()
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    @property
    def n_bytes(self) -> int:
        """As `Recorder.n_bytes`; what other processes took meanwhile is counted too."""
        if not self._graphs:
            return 0
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()
            return max(0, self._free_bytes - torch.cuda.mem_get_info()[0])


def recorder_for(model: LanguageModel) -> CudaRecorder | None:
    """A recorder where the model's steps can be recorded: on a GPU, by rows."""
    if isinstance(model, RowModel) and model.device.type == "cuda":
        return CudaRecorder(model.device)
    return None
