"""LAMBADA: the last word of a passage, which a person guesses only who has read all of it.

Paperno et al., 2016. Two formats that differ in their files, not in how they are scored: the plain
text that OpenAI scored GPT-2 with, and the original, in lower case and split into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mulm.eval.suites.base import Continuation, Likelihood, LikelihoodSuite, Metric, Row


class Lambada(LikelihoodSuite):
    """The format of OpenAI."""

    name = "lambada"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("acc"), Metric("perplexity", "perplexity"))
    columns = {"text": (str,)}
    hub = "hf://datasets/EleutherAI/lambada_openai@~parquet/default/test/*.parquet"
    sample = "lambada.jsonl"

    def questions(self, row: Row) -> Sequence[Continuation]:
        """The last word after all before it; words are what spaces divide."""
        context, _, word = row["text"].rpartition(" ")
        return [Continuation(context, f" {word}")]

    def measure(self, row: Row, answers: Sequence[Likelihood]) -> Mapping[str, float]:
        """Whether greedy decoding gives the word, and how likely it is."""
        del row
        return {"acc": float(answers[0].is_greedy), "perplexity": answers[0].log_likelihood}


class LambadaStandard(Lambada):
    """The original format."""

    name = "lambada_standard"
    hub = "hf://datasets/cimec/lambada@~parquet/*/test/*.parquet"
    sample = ""
