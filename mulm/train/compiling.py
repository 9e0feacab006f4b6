"""Whether the steps of a run are compiled, and why.

Called by objectives on a MicroLM. Invariant: a pure function of config, shape and machine, so that
a resumed run computes as the one before did. Compiling takes some seconds on the first step, fewer
where a process before has left its code on the disk, and then saves a share of each step.
"""

from __future__ import annotations

from mulm.errors import DeviceError
from mulm.model.compiled import why_not_compile
from mulm.model.config import MicroLMConfig
from mulm.train.flops import flops_per_token
from mulm.train.settled import SettledConfig

PAYS_FROM_FLOPS = {"cpu": 5e13, "cuda": 2e16}
"""Operations of one worker from which on the time saved is more than compiling takes: on two cores
of a CPU some two minutes, on a GPU some five."""


def choose_compiled(config: SettledConfig, shape: MicroLMConfig, device: str) -> tuple[bool, str]:
    """Whether to compile, and the reason for the log.

    Raises:
        DeviceError: it was asked for, and something that it needs is missing here.
    """
    lacks = why_not_compile(device)
    if config.compile is True and lacks:
        raise DeviceError(
            f"compile: true was asked for, but {lacks}",
            hint="install it (Debian, Ubuntu: sudo apt-get install g++), or use compile: auto",
        )
    if config.compile != "auto":
        return config.compile, "as configured"
    if lacks:
        return False, lacks
    if config.preference:
        return False, "its rows have every length"
    if config.precision == "fp8":
        return False, "its products are functions of their own"
    n_tokens = config.steps * config.batch_tokens / config.workers
    if n_tokens * flops_per_token(shape, config.seq_len) < PAYS_FROM_FLOPS[device]:
        return False, "the run is too short to pay for compiling"
    return True, "it saves more time than compiling takes"
