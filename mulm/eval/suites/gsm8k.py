"""GSM8K: word problems of school arithmetic, answered in words that end in a number.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021. Invariant: the model never
sees the answer of the question that it is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mulm.eval.suites.base import GenerationSuite, Metric, Prompt, Row

_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_LEAD = re.compile(r"(?s).*#### ")
_STOP = re.compile(r"\.$")
_HUB = "hf://datasets/openai/gsm8k@~parquet/main"


class Gsm8k(GenerationSuite):
    """`strict` wants the number after `####`, as in the examples; `flexible` the last number."""

    name = "gsm8k"
    metrics = (Metric("exact_match_flexible"), Metric("exact_match_strict"))
    columns = {"question": (str,), "answer": (str,)}
    hub = f"{_HUB}/test/*.parquet"
    hub_shots = f"{_HUB}/train/*.parquet"
    n_shots = 5

    def prompt(self, row: Row, shots: Sequence[Row]) -> Prompt:
        """Examples with their answers, then the question."""
        solved = [f"{_asked(shot)} {shot['answer']}\n\n" for shot in shots]
        stops = ("Question:", "</s>", "<|im_end|>")
        return Prompt("".join(solved) + _asked(row), stops)

    def measure(self, row: Row, answer: str) -> Mapping[str, float]:
        """Whether the number that is found is that of the row."""
        wanted = _bare(row["answer"])
        strict, numbers = _STRICT.search(answer), _NUMBER.findall(answer)
        return {
            "exact_match_flexible": float(bool(numbers) and _bare(numbers[-1]) == wanted),
            "exact_match_strict": float(strict is not None and _bare(strict[1]) == wanted),
        }


def _asked(row: Row) -> str:
    return f"Question: {row['question']}\nAnswer:"


def _bare(answer: str) -> str:
    """A number without commas, dollar signs, what leads to it and a full stop."""
    number = _LEAD.sub("", answer.replace(",", "").replace("$", ""))
    return _STOP.sub("", number).lower()
