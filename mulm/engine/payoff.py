"""Whether guessing pays: tokens for the seconds of a step, with guesses and without.

Asked by the speculator, apart for each size of batch, since a batch that is large already has no
idle arithmetic left for guesses. Both ways are measured at first and the faster is taken; the other
is measured again now and then, less often the longer it has lost. Invariant: the slower way gets a
bounded share of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_MEMORY = 0.9
"""What a step leaves of the weight of those before it."""
_TRIAL_STEPS = 8
_SHORTEST_WAIT, _LONGEST_WAIT = 64, 512
"""Steps between two trials of the slower way."""


@dataclass(slots=True)
class _Way:
    """Tokens and seconds of the last steps of a kind."""

    n_steps: int = 0
    n_tokens: float = 0.0
    seconds: float = 0.0

    def note(self, n_tokens: int, seconds: float) -> None:
        self.n_steps += 1
        self.n_tokens = _MEMORY * self.n_tokens + n_tokens
        self.seconds = _MEMORY * self.seconds + seconds


@dataclass(slots=True)
class _Size:
    """Both ways in batches of about one size."""

    plain: _Way = field(default_factory=_Way)
    guessed: _Way = field(default_factory=_Way)
    n_since_trial: int = 0
    wait: int = _SHORTEST_WAIT
    did_pay: bool = True

    @property
    def pays(self) -> bool:
        """Whether guessing gives more tokens a second; equality counts as that."""
        with_guesses = self.guessed.n_tokens * self.plain.seconds
        return with_guesses >= self.plain.n_tokens * self.guessed.seconds

    @property
    def is_wanted(self) -> bool:
        for way, is_guessed in ((self.guessed, True), (self.plain, False)):
            if way.n_steps < _TRIAL_STEPS:
                return is_guessed
        is_trial = self.n_since_trial >= self.wait
        return self.pays != is_trial

    def end_step(self) -> None:
        self.n_since_trial += 1
        if self.n_since_trial >= self.wait + _TRIAL_STEPS:
            self.n_since_trial = 0
            self.wait = min(2 * self.wait, _LONGEST_WAIT)
        if self.pays != self.did_pay:
            self.did_pay, self.wait = self.pays, _SHORTEST_WAIT


class Payoff:
    """What guessing has been worth, by size of batch."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}

    def is_wanted(self, n_works: int) -> bool:
        """Whether the next step of so many sequences should have guesses."""
        return self._size(n_works).is_wanted

    def note(self, n_works: int, n_tokens: int, seconds: float, *, is_guessed: bool) -> None:
        """What a step of streams gave and took."""
        size = self._size(n_works)
        (size.guessed if is_guessed else size.plain).note(n_tokens, seconds)
        size.end_step()

    def _size(self, n_works: int) -> _Size:
        """Sizes up to the next power of two are alike."""
        return self._sizes.setdefault((n_works - 1).bit_length(), _Size())
