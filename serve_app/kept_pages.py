"""What an engine keeps of the prompts that it has read, as far as an ingress can tell.

Held by `serve_app.engine_link`. The engine itself forgets what was longest unused, ends before
beginnings (`mulm.engine.pages`), and so does this. Invariant: it is a guess from what was sent
there, so it may guide a choice but no answer depends on it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class KeptPages:
    """Marks (`serve_app.prefix_key`) of the pieces of text that one engine has read."""

    def __init__(self) -> None:
        self._marks: OrderedDict[int, None] = OrderedDict()

    def n_found(self, marks: Sequence[int]) -> int:
        """How many of a prompt's first pieces are there."""
        return next((at for at, mark in enumerate(marks) if mark not in self._marks), len(marks))

    def note(self, marks: Sequence[int], n_most: int | None) -> None:
        """They have been read; of all only the newest `n_most` are remembered, None for all."""
        for mark in reversed(marks):
            self._marks[mark] = None
            self._marks.move_to_end(mark)
        while n_most is not None and len(self._marks) > n_most:
            self._marks.popitem(last=False)
