"""How a run's workers will agree, as far as it is known before anything is measured.

Asked by those who tell what a run would be: `mulm train --dry-run` and the control API. A pure
function. Invariant: what only links and machines can tell is not guessed: then the reason says that
it is measured, between which ways, and what each would have to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mulm.model.config import MicroLMConfig
from mulm.train.settled import SettledConfig
from mulm.train.sync.outer_choice import choose_outer
from mulm.train.sync.survey import task_of
from mulm.train.sync.ways import MOST


@dataclass(frozen=True, slots=True)
class Outlook:
    """A strategy, or None where the run measures first; and why."""

    strategy: str | None
    reason: str

    @property
    def text(self) -> str:
        """For a person."""
        return f"{self.strategy or 'measured when the run begins'}: {self.reason}"


def outlook(config: SettledConfig, shape: MicroLMConfig, machines: Sequence[str] | None) -> Outlook:
    """What the run's `sync` comes to.

    Args:
        config: The run's.
        shape: Its model's.
        machines: The addresses of those that could train; None where nobody knows.
    """
    if config.sync == "diloco":
        asked = "the config asks for it: an island on each machine with room"
        return Outlook("diloco", f"{asked}; {choose_outer(config.diloco, None).text}")
    if config.workers == 1:
        return Outlook("single", "one worker has nobody to agree with")
    if config.sync != "auto":
        return Outlook(config.sync, "the config asks for it")
    if machines is not None and len(machines) == 1:
        of_one = f"all {config.workers} workers are on one machine, so nothing is measured"
        return Outlook("ddp", f"{of_one}: they sum gradients every step")
    return Outlook(None, f"{_who(machines or None)}; {_ways(config, shape)}")


def _who(machines: Sequence[str] | None) -> str:
    if machines is None:
        return (
            "which machines there are is known then: on one, workers sum gradients every step"
            " (ddp); of several, pace and links are measured"
        )
    return f"pace and links of {len(machines)} machines ({', '.join(machines)})"


def _ways(config: SettledConfig, shape: MicroLMConfig) -> str:
    """What would travel, in the first wire of each way and in the last that is tried."""
    task = task_of(config, shape)
    sums, rounds = (
        " or ".join(f"{task.bytes_of(wire) / 1e6:,.1f} MB in {wire}" for wire in wires)
        for wires in (task.sum_wires, task.wires)
    )
    outer = "averaging or momentum of the shared weights is chosen then, by the number of rounds"
    if config.diloco.outer != "auto":
        outer = choose_outer(config.diloco, None).text
    return (
        f"one machine alone, gradients summed every step ({sums}), or islands ({rounds} each way"
        f" a round), whichever is worth most where talking costs at most {MOST:.0%} of the time;"
        f" {outer}"
    )
