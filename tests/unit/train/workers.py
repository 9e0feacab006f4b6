"""Two processes with a gloo process group, which cost seconds to start: all tests share them.

A function of a test module is called in both, with its rank first; what it returns comes back.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

N_WORKERS = 2
DEADLINE_S = 120.0


class Workers:
    """The processes; after an error they are ended, since each may wait for the other."""

    def __init__(self, folder: Path) -> None:
        spawn = get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(N_WORKERS)]
        self._pipes: list[Connection] = [ours for ours, _ in pipes]
        self._processes = [
            spawn.Process(target=serve, args=(rank, str(folder / "store"), theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    @property
    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(rank, *arguments)` returns on each worker."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results = []
        for pipe in self._pipes:
            if not pipe.poll(DEADLINE_S):
                self.close()
                raise TimeoutError(f"{function.__name__} took more than {DEADLINE_S:.0f} s")
            is_done, result = pipe.recv()
            if not is_done:
                self.close()
                raise AssertionError(result)
            results.append(result)
        return results

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()


def serve(rank: int, store: str, pipe: Connection) -> None:
    """What each process does until its parent ends it."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=N_WORKERS
    )
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(rank, *arguments)))
        except Exception:  # noqa: BLE001 carried to the test
            pipe.send((False, traceback.format_exc()))
