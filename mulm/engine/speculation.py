"""Guesses the next tokens of running streams, so that one step can find several.

Called by the engine with each plan. The guesses are read in the same step as the newest token, and
at each of them the token is drawn that would be drawn without guessing: random numbers depend on
seed, choice and position alone. So a guess is kept exactly if it is that token, and answers, greedy
or sampled, are the same with and without. Streams whose logits depend on what they have generated
(penalties, grammars, `min_tokens`) are not guessed for.

Invariant: nobody loses pages for a guess; where guessing does not pay it stops by itself, and is
tried again now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mulm.engine.lookup import PromptLookup
from mulm.engine.penalties import is_changed
from mulm.engine.request import Sequence
from mulm.engine.scheduler import Work
from mulm.engine.step_cost import StepCost

_NEWEST = 0.25
_LEAST_SHARE = 0.3
"""Of guesses that must come true: rarer ones are not worth their row."""

_REST = 64
"""Tokens of a sequence until what did not come true is tried again."""

_TRIAL_SHARE = 0.5

MakeRoom = Callable[[Sequence, int], int]
"""Gives a sequence pages for so many tokens if they are free; for how many it has them."""


@dataclass(slots=True)
class _Luck:
    """A sequence's text, and how its guesses have come true."""

    lookup: PromptLookup = field(default_factory=PromptLookup)
    share: float = 1.0
    rests_until: int = 0

    def n_wanted(self, n_most: int) -> int:
        """Guesses each of which will probably come true."""
        n = 0
        while n < n_most and self.share ** (n + 1) >= _LEAST_SHARE:
            n += 1
        return n

    def learn(self, n_guessed: int, n_true: int, n_generated: int) -> None:
        self.share += _NEWEST * (n_true / n_guessed - self.share)
        if self.share < _LEAST_SHARE:
            self.share, self.rests_until = _TRIAL_SHARE, n_generated + _REST


class Speculation:
    """Adds guesses to plans, and learns what became of them.

    Args:
        n_most: Guesses for one stream in one step at most; 0 never guesses.
    """

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._cost = StepCost()
        self._luck: dict[Sequence, _Luck] = {}
        self.n_guessed = 0
        self.n_true = 0

    def extend(self, works: list[Work], make_room: MakeRoom) -> list[Work]:
        """The same plan, with guesses where they pay; a plan that reads prompts stays as it is."""
        if not self._n_most or any(work.n_tokens > 1 for work in works):
            return works
        guessed = [replace(w, guesses=self._guess(w.sequence, make_room)) for w in works]
        n_more = sum(len(work.guesses) for work in guessed)
        expected = sum(self._expected(work) for work in guessed)
        if not n_more or not self._cost.pays(len(works), n_more, expected):
            return works
        return guessed

    def learn(self, works: list[Work], n_drawn: dict[Sequence, int], seconds: float) -> None:
        """A plan took so long; so many tokens of each sequence were drawn."""
        if not self._n_most or any(work.n_tokens > 1 for work in works):
            return
        self._cost.learn(sum(1 + len(work.guesses) for work in works), seconds)
        for work in works:
            if work.guesses:
                sequence, n_true = work.sequence, n_drawn[work.sequence] - 1
                self.n_guessed += len(work.guesses)
                self.n_true += n_true
                self._luck[sequence].learn(len(work.guesses), n_true, sequence.n_generated)

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        self._luck.pop(sequence, None)

    def _guess(self, sequence: Sequence, make_room: MakeRoom) -> tuple[int, ...]:
        n_left = sequence.sampling.max_tokens - sequence.n_generated - 1
        if not sequence.n_generated or n_left < 1 or is_changed(sequence):
            return ()
        luck = self._luck.setdefault(sequence, _Luck())
        if sequence.n_generated < luck.rests_until:
            return ()
        n_wanted = luck.n_wanted(min(self._n_most, n_left))
        guesses = luck.lookup.guess(sequence.token_ids, n_wanted)
        if not guesses:
            return ()
        n_fitting = (
            make_room(sequence, sequence.n_cached + 1 + len(guesses)) - sequence.n_cached - 1
        )
        return guesses[: max(0, n_fitting)]

    def _expected(self, work: Work) -> float:
        """Tokens that the guesses are worth; each needs those before it."""
        if not work.guesses:
            return 0.0
        share = self._luck[work.sequence].share
        return sum(share**n for n in range(1, len(work.guesses) + 1))
