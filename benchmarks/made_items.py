"""Items in the formats of suites that are not bundled, made of passages of text.

Used by `benchmarks.lm_eval_scores`. Nonsense as questions, but with all that the formats'
preprocessing is for: brackets, double spaces, letters and digits as labels, numbers with commas.
"""

from __future__ import annotations

from collections.abc import Sequence

from mulm.eval.suites.base import Row


def made_rows(name: str, texts: Sequence[str]) -> list[Row]:
    """Items in the format of a suite, of passages: which word ended this one?"""
    rows: list[Row] = []
    for number, text in enumerate(texts):
        begin, _, word = text.rpartition(" ")
        others = [texts[(number + k) % len(texts)].rpartition(" ")[2] for k in (1, 2, 3)]
        right = number % 4
        choices = [*others[:right], word, *others[right:]]
        rows.append(made_row(name, number, begin[-200:], choices, right))
    return rows


def made_row(name: str, number: int, begin: str, choices: list[str], right: int) -> Row:
    """One of them."""
    if name == "lambada_standard":  # a word that also a small model guesses now and then
        return {"text": f"{begin.lower().rpartition(' the ')[0]} the"}
    if name == "hellaswag":
        ctx_a, _, ctx_b = begin.rpartition(". ")
        endings = [f"{word} [title] and [substeps] more  of it" for word in choices]
        return {
            "ctx_a": ctx_a, "ctx_b": ctx_b, "activity_label": f"Reading [header] {number}",
            "endings": endings, "label": str(right),
        }  # fmt: skip
    if name == "arc_easy":
        labels = list("1234" if number % 3 else "ABCD")
        answers = {"text": choices, "label": labels}
        return {"question": begin, "choices": answers, "answerKey": labels[right]}
    if name == "piqa":
        ways = choices[right], " ".join(choices)
        sols = {"sol1": ways[number % 2], "sol2": ways[1 - number % 2]}
        return {"goal": begin, **sols, "label": number % 2}
    counted = number + 3
    answer = f"There are {number} and 3: <<{number}+3={counted}>>{counted}.\n#### {counted},000"
    return {"question": f"{begin} How many?", "answer": answer}
