"""A model from elsewhere, while the application is up: taken in, made smaller, served, asked."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from actors.write_fact import write_fact
from jobs.exchange import Exchange
from jobs.progress import Progress
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import tiny_stored_adapter, tiny_stored_model, tiny_tokenizer
from serve_app.keys import read_first_key

pytestmark = pytest.mark.cluster

MULM = [sys.executable, "-c", "from jobs.cli import main; main()"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What somebody else exported, on another machine."""
    home = Home(tmp_path / "elsewhere").create()
    with Ledger(home.ledger) as ledger:
        made = tiny_stored_model(Store(home.store), tiny_tokenizer())
        ledger.publish("model", "theirs", made.id)
    with Exchange(home, Progress(io.StringIO()), {}) as exchange:
        exchange.export("theirs", "hf", tmp_path / "folder")
    return tmp_path / "folder"


def mulm(cluster: Any, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*MULM, *arguments, "--json"],
        env=cluster.env, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_model_is_taken_in_made_smaller_and_served(cluster: Any, folder: Path) -> None:
    assert mulm(cluster, "model", "import", str(folder), "--name", "ours")["model"] == "ours@1"
    smaller = mulm(cluster, "compress", "ours", "--to", "int8")
    assert (smaller["model"], smaller["source"]) == ("ours-int8@1", "ours@1")
    with Ledger(cluster.home.ledger) as ledger:
        (run,) = ledger.runs("compress")
    assert cluster.jobs.newest(run.id) is not None, "it was no Ray job"
    served = mulm(cluster, "serve", "ours-int8")
    key = read_first_key(cluster.home)
    with openai.OpenAI(base_url=served["url"], api_key=key, max_retries=0) as client:
        options = {"model": "ours-int8", "prompt": "the", "max_tokens": 4, "seed": 1}
        answers = {client.completions.create(**options).choices[0].text for _ in range(2)}
    assert len(answers) == 1
    assert mulm(cluster, "serve", "ours-int8", "--stop") == {"stopped": "ours-int8"}


def test_adapters_are_served_beside_their_model_and_change_in_place(cluster: Any) -> None:
    store, home = Store(cluster.home.store), cluster.home
    base = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=128)
    write_fact(home, "publish", "model", "plain", base.id)
    for seed in (1, 2):
        made = tiny_stored_adapter(store, base, seed)
        write_fact(home, "publish", "model", "poems", made.id)
    write_fact(home, "set_alias", "model", "poems", "live", 1)
    own = mulm(cluster, "serve", "plain", "--adapter", "poems", "--adapter", "old=poems@1")
    assert own["adapters"] == {"poems": "poems@2", "old": "poems@1"}
    options = {"prompt": "Hello there", "max_tokens": 12, "temperature": 0}
    with openai.OpenAI(base_url=own["url"], api_key=read_first_key(home)) as client:

        def ask(model: str) -> str:
            return client.completions.create(model=model, **options).choices[0].text

        said = {name: ask(name) for name in ("plain", "poems", "old")}
        assert len(set(said.values())) == 3
        mulm(cluster, "serve", "plain", "--adapter", "alive=poems@live")
        assert [model.id for model in client.models.list()] == ["plain", "alive"]
        assert (ask("alive"), ask("plain")) == (said["old"], said["plain"])
        write_fact(home, "set_alias", "model", "poems", "live", 2)
        deadline_s = time.monotonic() + 20.0
        while ask("alive") != said["poems"]:
            assert time.monotonic() < deadline_s
    done = subprocess.run(
        [*MULM, "serve", "plain", "--adapter", "x=plain"],
        env=cluster.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "plain@1 has no adapter" in done.stderr
    mulm(cluster, "serve", "plain", "--stop")
