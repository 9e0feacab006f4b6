from __future__ import annotations

from pathlib import Path

import pytest

from jobs.entry import JobContext
from jobs.prepare import prepare
from jobs.train_tokenizer import learn
from mulm.config import load_config
from mulm.data.executor import InProcess
from mulm.data.recipe import MIN_VOCAB_SIZE, Recipe
from mulm.data.tokenizer_config import TokenizerConfig
from mulm.errors import ConfigError, DataError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.refs import parse_ref
from mulm.store import Store
from mulm.testing import tiny_dataset

RUN = "run_tok"


@pytest.fixture
def context(tmp_path: Path):
    home = Home(tmp_path / "home").create()
    with Ledger(home.ledger) as facts:
        facts.create_run(RUN, "train_tokenizer", {})
        yield JobContext(RUN, home, Store(home.store), facts)


@pytest.fixture
def books(context: JobContext, tmp_path: Path) -> dict[str, object]:
    lines = [f"Chapter {n}. The fox number {n} jumps over dog {n * 7}." for n in range(400)]
    text = "\n\n".join(lines)
    (tmp_path / "fox.txt").write_text(text)
    values = {"name": "fox", "sources": [{"path": str(tmp_path / "fox.txt")}],
              "tokenizer": {"vocab_size": 300}}  # fmt: skip
    return prepare(context, load_config(Recipe, values), InProcess())


def test_it_is_the_tokenizer_that_a_build_makes(context: JobContext, books) -> None:
    made = learn(context, TokenizerConfig(name="alone", dataset="fox", vocab_size=300))
    assert made["tokenizer_id"] == books["tokenizer_id"]
    assert (made["tokenizer"], made["dataset"], made["vocab_size"]) == ("alone@1", "fox@1", 300)
    other = learn(context, TokenizerConfig(name="alone", dataset="fox@1", vocab_size=310))
    assert (other["tokenizer"], other["vocab_size"]) == ("alone@2", 310)
    assert other["tokenizer_id"] != made["tokenizer_id"]
    assert (
        context.facts.resolve("tokenizer", parse_ref("alone")).manifest_id == other["tokenizer_id"]
    )


def test_what_cannot_be_learned_is_refused(context: JobContext, books) -> None:
    with pytest.raises(DataError):
        learn(context, TokenizerConfig(name="large", dataset="fox", vocab_size=100_000))
    foreign = tiny_dataset(context.store)
    context.facts.publish("dataset", "foreign", foreign.id)
    with pytest.raises(NotFoundError, match="the documents of foreign@1 are not known"):
        learn(context, TokenizerConfig(name="x", dataset="foreign"))


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "../x"},
        {"dataset": "a b"},
        {"vocab_size": 0},
        {"vocab_size": MIN_VOCAB_SIZE - 1},
        {"vocab_size": 1 << 30},
        {"chat_fraction": 2},
    ],
)
def test_an_impossible_config_names_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TokenizerConfig, {"name": "a", "dataset": "b", **bad})
    assert caught.value.message.startswith(next(iter(bad)))
