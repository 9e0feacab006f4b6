"""Our scores beside those of lm-evaluation-harness: same model, same items, fp32.

    python -m benchmarks.lm_eval_scores                    a random tiny model, bundled items
    python -m benchmarks.lm_eval_scores --model demo       a model of MULM_HOME
      --data blimp=FILE --data gsm8k=FILE ... --add-bos

Needs `lm_eval` in the environment, which is no dependency of ours, and no network: the model is
exported to a folder, and the harness's own task files are read with their data replaced by local
files. Suites without a bundled sample get items made of the sample of LAMBADA, in the format that
the hub has: nonsense, but through all of the format's preprocessing. Prints a table: both scores,
the largest difference of a log-likelihood (or texts that differ), and items judged differently.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.made_items import made_rows
from mulm.data.sources.base import SourceFile
from mulm.data.tokenizer import Tokenizer
from mulm.eval.config import EvaluateConfig
from mulm.eval.encoding import Encoder
from mulm.eval.generation import TokenPrompt, Writer
from mulm.eval.likelihood import Scorer
from mulm.eval.rows import read_rows
from mulm.eval.scoring import Student, score_suite
from mulm.eval.shots import Shots
from mulm.eval.suite_data import SuiteFiles
from mulm.eval.suites.base import GenerationSuite, LikelihoodSuite, Row
from mulm.eval.suites.registry import SUITES
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.model.hf_folder import write_hf_folder
from mulm.model.model_files import open_model_files
from mulm.model.stored import TOKENIZER, load_model
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.testing import tiny_stored_model, tiny_tokenizer

SAMPLES = Path(__file__).resolve().parent.parent / "corpora" / "eval"
TASKS = {
    "blimp": "blimp/_template_yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "lambada_standard": "lambada/lambada_standard.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "piqa": "piqa/piqa.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
}
"""Of the harness; `arc_challenge` is `arc_easy` with other data."""
NAMES = {
    "exact_match_flexible": "exact_match,flexible-extract",
    "exact_match_strict": "exact_match,strict-match",
}
N_SHOT_ROWS = 40
WINDOW = 288
"""Of the tiny model: the harness writes 256 tokens, and something must stand before them."""


@dataclass(frozen=True, slots=True)
class Case:
    """A suite with its items, and the harness's task with the same."""

    name: str
    files: SuiteFiles
    task: str


def main() -> None:
    """One table, in Markdown."""
    arguments = parse()
    if importlib.util.find_spec("lm_eval") is None:
        sys.exit("lm_eval is not installed here: pip install lm_eval")
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DISABLE_MULTIPROC": "1"}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = str(folder / "hf")
        store, manifest = chosen_model(arguments.model, folder)
        with open_model_files(store, manifest) as files:
            write_hf_folder(folder / "model", files, b"", dtype=torch.float32)
        cases = list(make_cases(folder, dict(arguments.data), arguments.limit))
        theirs = run_harness(folder, cases, arguments)
        tokenizer = Tokenizer.from_bytes(store.read(manifest.blob(TOKENIZER)))
        student = Student(load_model(store, manifest), tokenizer)
        rows = [row for case in cases for row in compared(case, student, theirs, arguments)]
    print_table(rows)


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="of MULM_HOME; by default a tiny random one")
    parser.add_argument(
        "--data", action="append", default=[], type=lambda text: text.split("=", 1),
        metavar="SUITE=FILE", help="the items of a suite",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, default=10_000, help="items of each suite at most")
    parser.add_argument("--add-bos", action="store_true", help="as the harness's add_bos_token")
    parser.add_argument("--batch", type=int, default=16, help="the harness's batch size")
    return parser.parse_args()


def chosen_model(ref: str | None, folder: Path) -> tuple[Store, Manifest]:
    """A stored model."""
    if ref is None:
        store = Store(folder / "store")
        return store, tiny_stored_model(store, tiny_tokenizer(), max_seq_len=WINDOW)
    home = Home.from_env()
    with Ledger(home.ledger) as ledger:
        version = ledger.resolve("model", parse_ref(ref))
    store = Store(home.store)
    return store, store.load(version.manifest_id)


def make_cases(folder: Path, data: Mapping[str, str], limit: int) -> Iterator[Case]:
    """A case for each suite; its rows are written where both sides read them."""
    for name, task in TASKS.items():
        suite = SUITES[name]
        path = Path(data.get(name) or SAMPLES / (suite.sample or "-"))
        if path.is_file():
            file = SourceFile(path.name, path)
            rows = [row for _, row in read_rows(file, suite.columns)]
        else:
            rows = made_rows(name, passages())
        shots = rows[:N_SHOT_ROWS] if isinstance(suite, GenerationSuite) else []
        rows = rows[len(shots) :][:limit]
        items = written(folder / f"{name}.jsonl", rows)
        files = SuiteFiles("file", (items,), (written(folder / f"{name}.shots", shots),))
        if not shots:
            files = SuiteFiles("file", (items,))
        yield Case(name, files, task)


def written(path: Path, rows: Sequence[Row]) -> SourceFile:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceFile(path.name, path)


def passages() -> list[str]:
    """Those of the bundled sample of LAMBADA."""
    file = SourceFile("lambada.jsonl", SAMPLES / "lambada.jsonl")
    return [str(row["text"]) for _, row in read_rows(file, {"text": (str,)})]


def run_harness(
    folder: Path, cases: Sequence[Case], arguments: argparse.Namespace
) -> Mapping[str, Any]:
    """Results and samples of the harness's own tasks on the same files."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = folder / "tasks"
    tasks.mkdir()
    root = Path(lm_eval.__file__).parent / "tasks"
    for case in cases:
        (tasks / f"{case.name}.yaml").write_text(task_yaml(case, root), encoding="utf-8")
    model = {"pretrained": str(folder / "model"), "dtype": "float32"}
    if arguments.add_bos:
        model["add_bos_token"] = True  # type: ignore[assignment]
    found: Mapping[str, Any] = lm_eval.simple_evaluate(
        model="hf",
        model_args=model,
        tasks=[f"mulm_{case.name}" for case in cases],
        task_manager=TaskManager(include_path=str(tasks)),
        device="cpu",
        batch_size=arguments.batch,
        bootstrap_iters=0,
    )
    return found


def task_yaml(case: Case, root: Path) -> str:
    """The harness's own task, on our files; JSON is YAML."""
    items = [str(file.path) for file in case.files.items]
    shots = [str(file.path) for file in case.files.shots]
    values: dict[str, Any] = {
        "include": str(root / case.task),
        "task": f"mulm_{case.name}",
        "tag": [],
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": items} | ({"train": shots} if shots else {})},
        "training_split": "train" if shots else None,
        "validation_split": None,
        "test_split": "test",
    }
    suite = SUITES[case.name]
    if "acc_norm" in {metric.name for metric in suite.metrics}:
        names = ("acc", "acc_norm", "acc_bytes")
        values["metric_list"] = [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names
        ]
    return json.dumps(values)


def compared(
    case: Case, student: Student, theirs: Mapping[str, Any], arguments: argparse.Namespace
) -> Iterator[list[str]]:
    """Lines of the table for one suite."""
    task, suite = f"mulm_{case.name}", SUITES[case.name]
    samples = sorted(theirs["samples"][task], key=lambda sample: sample["doc_id"])
    config = EvaluateConfig(model="x", suites=(case.name,), add_bos=arguments.add_bos or None)
    ours = score_suite(suite, case.files, student, config)
    if isinstance(suite, LikelihoodSuite):
        told = likelihood_differences(case, suite, student, config, samples)
    else:
        assert isinstance(suite, GenerationSuite)
        told = text_differences(case, suite, student, config, samples)
    for metric, value in ours["metrics"].items():
        harness = theirs["results"][task][NAMES.get(metric, f"{metric},none")]
        scores = f"{value['score']:.6g}", f"{harness:.6g}"
        yield [case.name, metric, str(ours["n"]), *scores, *told, str(ours["cut"])]


def likelihood_differences(
    case: Case,
    suite: LikelihoodSuite,
    student: Student,
    config: EvaluateConfig,
    samples: Sequence[Mapping[str, Any]],
) -> tuple[str, str]:
    """The largest difference of a log-likelihood, and how many items are judged differently."""
    encoder, scorer = Encoder(student.tokenizer, config.add_bos), Scorer(student.model)
    rows = [row for file in case.files.items for _, row in read_rows(file, suite.columns)]
    asked = [[encoder.question(q) for q in suite.questions(row)] for row in rows]
    answers = iter(scorer.answer([question for of_row in asked for question in of_row]))
    largest, n_other = 0.0, 0
    for row, of_row, sample in zip(rows, asked, samples, strict=True):
        own = [next(answers) for _ in of_row]
        for answer, (log_likelihood, is_greedy) in zip(own, sample["filtered_resps"], strict=True):
            largest = max(largest, abs(answer.log_likelihood - log_likelihood))
            n_other += answer.is_greedy != is_greedy
        judged = suite.measure(row, own)
        n_other += any(judged[m] != sample[m] for m in judged if m.startswith("acc"))
    return f"{largest:.1e}", str(n_other)


def text_differences(
    case: Case,
    suite: GenerationSuite,
    student: Student,
    config: EvaluateConfig,
    samples: Sequence[Mapping[str, Any]],
) -> tuple[str, str]:
    """How many prompts and texts differ, and how many items are judged differently."""
    encoder = Encoder(student.tokenizer, config.add_bos)
    writer = Writer(student.model, student.tokenizer)
    rows = [row for file in case.files.items for _, row in read_rows(file, suite.columns)]
    pool = [row for file in case.files.shots for _, row in read_rows(file, suite.columns)]
    shots = Shots(pool, suite.n_shots, is_among=False)
    asked = [suite.prompt(row, shots.draw(row)) for row in rows]
    texts = writer.answer(
        [TokenPrompt(tuple(encoder.prompt(p.text)), p.stops, p.max_tokens) for p in asked]
    )
    by_number: dict[int, dict[str, Mapping[str, Any]]] = {}
    for sample in samples:
        by_number.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    n_prompts = n_texts = n_other = 0
    for number, (row, prompt, text) in enumerate(zip(rows, asked, texts, strict=True)):
        strict, flexible = by_number[number]["strict-match"], by_number[number]["flexible-extract"]
        n_prompts += prompt.text != strict["arguments"][0][0]
        n_texts += text != strict["resps"][0][0]
        judged = suite.measure(row, text)
        n_other += judged["exact_match_strict"] != strict["exact_match"]
        n_other += judged["exact_match_flexible"] != flexible["exact_match"]
    return f"{n_prompts} prompts, {n_texts} texts", str(n_other)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """In Markdown."""
    version = importlib.metadata.version("lm_eval")
    heads = ("suite", "metric", "n", "mulm", f"lm_eval {version}", "largest difference",
             "judged otherwise", "cut")  # fmt: skip
    for cells in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
