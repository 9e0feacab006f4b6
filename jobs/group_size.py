"""How large the group of a run in step may be, by what became of those before.

Asked by `jobs.train` before each start. Pure. Invariant: where a group that was made larger is lost
before it has made a checkpoint, such as with a machine that the others cannot reach, the run goes
on with as many workers as have made one.
"""

from __future__ import annotations


class GroupSize:
    """Of one run.

    Args:
        wanted: How many workers were asked for.
    """

    def __init__(self, wanted: int) -> None:
        self.most = wanted
        self._n_last = self._n_proved = 0
        self._step = 0
        """Of the newest checkpoint when the last group began."""

    def look(self, step: int, *, has_lost: bool) -> None:
        """Learn from the last group's end.

        Args:
            step: Of the newest checkpoint.
            has_lost: Whether it ended since workers died.
        """
        if step > self._step:
            self._n_proved = self._n_last
        elif has_lost and 0 < self._n_proved < self._n_last:
            self.most = self._n_proved
        self._step = step

    def begin(self, n_workers: int) -> None:
        """A group of so many starts."""
        self._n_last = n_workers
