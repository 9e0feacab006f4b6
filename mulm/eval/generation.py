"""What a model writes after prompts, greedily, many at once, through the engine that serves it.

Called by `mulm.eval.scoring`. Invariant: a text ends before the first of its stops, however many
tokens it took to spell it; the answers are those of each prompt alone, as far as the model's
kernels allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mulm.data.tokenizer import IncrementalDecoder, Tokenizer
from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.batch import LanguageModel

_N_SLOTS = 16


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt of at least one id, and what ends the text."""

    ids: tuple[int, ...]
    stops: tuple[str, ...]
    max_tokens: int


@dataclass(slots=True)
class _Text:
    """A text while it comes."""

    number: int
    stops: tuple[str, ...]
    decoder: IncrementalDecoder
    text: str = ""

    def add(self, ids: Sequence[int], *, is_last: bool) -> bool:
        """Take new tokens; True when the text has ended."""
        self.text += self.decoder.push(ids) + (self.decoder.finish() if is_last else "")
        places = [self.text.find(stop) for stop in self.stops if stop in self.text]
        if places:
            self.text = self.text[: min(places)]
        return is_last or bool(places)


class Writer:
    """Continues prompts with one model.

    Args:
        model: On its device, in evaluation mode.
        tokenizer: The model's.
        window: Tokens that the model sees at once; by default its own.
    """

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, window: int | None = None
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        longest = int(model.config.max_seq_len)
        self.window = min(window or longest, longest)

    def max_tokens(self, prompt: TokenPrompt) -> int:
        """What may be written; half of a window that would have no place for a prompt."""
        return prompt.max_tokens if prompt.max_tokens < self.window else self.window // 2

    def is_cut(self, prompt: TokenPrompt) -> bool:
        """Whether the prompt is too long for the window."""
        return len(prompt.ids) > self.window - self.max_tokens(prompt)

    def answer(
        self,
        prompts: Sequence[TokenPrompt],
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> list[str]:
        """The texts, in the order of the prompts; too long a prompt loses its beginning."""
        # No plan depends on a clock, nor then do the last bits of plain PyTorch.
        engine = Engine(self._model, _N_SLOTS, self.window, seed=0, longest_step_s=None)
        running: dict[str, _Text] = {}
        done: dict[int, str] = {}
        # The longest first: those beside each other take about as long.
        waiting = sorted(range(len(prompts)), key=lambda n: len(prompts[n].ids))
        while waiting or running:
            while waiting and len(running) < _N_SLOTS:
                number = waiting.pop()
                request = self._request(number, prompts[number])
                engine.add(request)
                decoder = IncrementalDecoder(self._tokenizer)
                running[request.request_id] = _Text(number, prompts[number].stops, decoder)
            for chunk in engine.step():
                text = running[chunk.request_id]
                if text.add(chunk.token_ids, is_last=chunk.finish_reason is not None):
                    engine.cancel(chunk.request_id)  # harmless where it has ended by itself
                    done[text.number] = running.pop(chunk.request_id).text
                    on_progress(len(done), len(prompts))
        return [done[number] for number in range(len(prompts))]

    def _request(self, number: int, prompt: TokenPrompt) -> GenerateRequest:
        max_tokens = self.max_tokens(prompt)
        sampling = SamplingParams(
            max_tokens, temperature=0.0, stop_token_ids=self._tokenizer.stop_ids
        )
        ids = prompt.ids[-(self.window - max_tokens) :]
        return GenerateRequest(str(number), ids, sampling, deadline_s=float("inf"))
