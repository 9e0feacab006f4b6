"""A suite's scores: rows read, questions asked, answers judged, numbers added up.

Called by `jobs.evaluate`. Invariant: every row of the files, up to the limit, is an item and counts
once; a row that makes none is an error before the model is asked anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mulm.data.sources.base import SourceFile
from mulm.data.tokenizer import Tokenizer
from mulm.errors import SchemaError
from mulm.eval.config import EvaluateConfig
from mulm.eval.encoding import Encoder
from mulm.eval.generation import TokenPrompt, Writer
from mulm.eval.likelihood import Scorer
from mulm.eval.rows import read_rows
from mulm.eval.shots import Shots
from mulm.eval.suite_data import SuiteFiles
from mulm.eval.suites.base import GenerationSuite, LikelihoodSuite, Row, RowError, Suite
from mulm.eval.summary import Measured, summary
from mulm.model.microlm import MicroLM

Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Student:
    """The model that is asked."""

    model: MicroLM
    tokenizer: Tokenizer
    dtype: torch.dtype = torch.float32


def score_suite(
    suite: Suite,
    files: SuiteFiles,
    student: Student,
    config: EvaluateConfig,
    on_progress: Report = lambda _done, _total: None,
) -> dict[str, Any]:
    """The scores of a suite, as the run's result has them.

    Raises:
        SchemaError: a row is not what the suite reads; the message names file, row and columns.
        DataError: a file is damaged or empty.
        TrainingDivergedError: the model gives no finite numbers.
    """
    rows = _rows(suite, files.items, config.limit)
    if isinstance(suite, LikelihoodSuite):
        measured = _by_likelihood(suite, rows, student, config, on_progress)
    elif isinstance(suite, GenerationSuite):
        measured = _by_writing(suite, rows, files, student, config, on_progress)
    else:
        raise TypeError(f"{suite.name} is neither kind of suite")
    return {
        **summary(suite, measured),
        "origin": files.origin,
        "files": [file.name for file in files.items],
        **files.identity,
    }


def _rows(suite: Suite, files: Sequence[SourceFile], limit: int | None) -> list[tuple[str, Row]]:
    """The first rows of each group, with how to call them."""
    taken: Counter[str] = Counter()
    rows = []
    for where, row in _of_files(suite, files):
        group = suite.group(row)
        if limit is None or taken[group] < limit:
            taken[group] += 1
            rows.append((where, row))
    return rows


def _of_files(suite: Suite, files: Sequence[SourceFile]) -> Iterator[tuple[str, Row]]:
    for file in files:
        yield from read_rows(file, suite.columns)


def _by_likelihood(
    suite: LikelihoodSuite,
    named_rows: Sequence[tuple[str, Row]],
    student: Student,
    config: EvaluateConfig,
    on_progress: Report,
) -> Measured:
    encoder = Encoder(student.tokenizer, config.add_bos)
    scorer = Scorer(student.model, student.dtype, config.seq_len)
    asked = []
    for where, row in named_rows:
        with _naming(where):
            asked.append([encoder.question(question) for question in suite.questions(row)])
    questions = [question for of_row in asked for question in of_row]
    answers = iter(scorer.answer(questions, on_progress))
    rows = [row for _, row in named_rows]
    values = [
        suite.measure(row, [next(answers) for _ in of_row])
        for row, of_row in zip(rows, asked, strict=True)
    ]
    return Measured(rows, values, sum(map(scorer.is_cut, questions)))


def _by_writing(
    suite: GenerationSuite,
    named_rows: Sequence[tuple[str, Row]],
    files: SuiteFiles,
    student: Student,
    config: EvaluateConfig,
    on_progress: Report,
) -> Measured:
    encoder = Encoder(student.tokenizer, config.add_bos)
    writer = Writer(student.model, student.tokenizer, config.seq_len)
    shots = _shots(suite, files, config)
    prompts = []
    for where, row in named_rows:
        with _naming(where):
            prompt = suite.prompt(row, shots.draw(row))
        ids = tuple(encoder.prompt(prompt.text))
        prompts.append(TokenPrompt(ids, prompt.stops, prompt.max_tokens))
    answers = writer.answer(prompts, on_progress)
    rows = [row for _, row in named_rows]
    values = [suite.measure(row, answer) for row, answer in zip(rows, answers, strict=True)]
    return Measured(rows, values, sum(map(writer.is_cut, prompts)))


def _shots(suite: GenerationSuite, files: SuiteFiles, config: EvaluateConfig) -> Shots:
    """Worked examples of a file of their own, or of the items, whatever the limit on those."""
    n = suite.n_shots if config.shots is None else config.shots
    pool = [row for _, row in _of_files(suite, files.shots or files.items)] if n else []
    return Shots(pool, n, is_among=not files.shots)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Name the row that makes no item."""
    try:
        yield
    except RowError as error:
        raise SchemaError(f"{where}: {error}", hint="is it the file of another suite?") from None
