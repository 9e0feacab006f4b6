"""Token ids to text for one choice, with stop strings.

Called by `choices` for every chunk. Invariants: the text does not depend on how the tokens were
grouped on their way; no part of a stop string is ever sent, so text that may become one is held
back until it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

from mulm.data.tokenizer import IncrementalDecoder, Tokenizer


class TextStream:
    """The text of one choice as its tokens come.

    Stop strings that are whole before the `min_tokens`th token are text as any other, and so are
    those behind the first `mark`, if there is one: there begins what nobody is shown as text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        mark: str = "",
    ) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._n_missing = min_tokens
        self._mark = mark
        self._held = ""
        self.is_stopped = False

    def read(self, token_ids: Sequence[int]) -> tuple[str, int]:
        """The text that these tokens let go, and how many of them came before the end of a stop."""
        if not self._stops:
            return self._decoder.push(token_ids), len(token_ids)
        pieces: list[str] = []
        for token_id in token_ids:
            pieces.append(self.push(token_id))
            if self.is_stopped:
                break
        return "".join(pieces), len(pieces)

    def push(self, token_id: int) -> str:
        """The text that one more token lets go; sets `is_stopped` when a stop string is whole."""
        self._n_missing -= 1
        return self._scan(self._decoder.push([token_id]))

    def finish(self) -> str:
        """The text that was held back, when no more tokens come."""
        self._mark = ""
        text = self._scan(self._decoder.finish())
        held, self._held = self._held, ""
        return text + ("" if self.is_stopped else held)

    def _scan(self, new: str) -> str:
        if self.is_stopped:
            return ""
        text, self._held = self._held + new, ""
        begin = text.find(self._mark) if self._mark else -1
        n_sure = begin if begin >= 0 else len(text) - overlap(text, self._mark)
        begins = [(text.find(stop, 0, n_sure), stop) for stop in self._stops]
        found = [(at + len(stop), at) for at, stop in begins if at >= 0]
        if found and self._n_missing <= 0:
            self.is_stopped = True
            _, at = min(found)  # the first that was whole
            return text[:at]
        if begin >= 0:
            self._stops = ()
        if not self._stops:
            return text
        n_sure -= max(overlap(text[:n_sure], stop) for stop in self._stops)
        self._held = text[n_sure:]
        return text[:n_sure]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
