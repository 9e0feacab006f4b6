"""Do clients that we did not write work with the service? Each runs its proof; prints a table.

    python -m benchmarks.clients --python lm-eval=PATH litellm=PATH

The service is the application in one process, with a random tiny model in fp32, behind its key.
Each client is run by the Python that `--python` names for it, else by this one; one that is not
installed there is told as such. What they were answered is compared with our own evaluation and
with each other: the same question, asked through any of them, has the same answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.client_proofs import PROOFS
from benchmarks.serving_app import KEY, NAME, Server, make_service_app, served
from mulm.data.tokenizer import Tokenizer
from mulm.engine.grammar import Grammars
from mulm.eval.encoding import Encoder
from mulm.eval.likelihood import Scorer
from mulm.eval.suites.base import Continuation
from mulm.model.hf_folder import write_hf_folder
from mulm.model.microlm import MicroLM
from mulm.model.model_files import open_model_files
from mulm.model.stored import TOKENIZER, load_model
from mulm.store import Store
from mulm.testing import tiny_stored_model, tiny_tokenizer
from serve_app.engine_host import EngineHost
from serve_app.opened_model import OpenedModel
from serve_app.settings import AppArgs

PROOFS_FILE = Path(__file__).with_name("client_proofs.py")
WINDOW = 2048
_TIMEOUT_S = 600.0
CLOSE = 1e-3
"""How far two log-likelihoods in fp32 may differ; the service sums in another order."""

_WORDS = ("Hello there", "how are you", "The wizard isn't here", "user system tool", "Hello wizard")
QUESTIONS = [(one, f" {two}") for one in _WORDS for two in _WORDS if one != two]


def main() -> None:
    """One table, in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", nargs="*", default=[], metavar="CLIENT=PATH")
    parser.add_argument("--only", nargs="+", choices=PROOFS, default=list(PROOFS))
    options = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in options.python)
    print("| client | version | proof | outcome |\n|---|---|---|---|")
    seen: dict[str, Any] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, service(Path(temporary)) as (order, model):
        for name in options.only:
            python = pythons.get(name, sys.executable)
            outcome = prove(name, python, order, seen)
            if name == "lm-eval" and name in seen:
                outcome = compare_scores(seen[name]["scores"], model, order)
            failed += [name] if outcome.startswith("FAILED") else []
            what = (PROOFS[name].__doc__ or "").strip()
            print(f"| {name} | {version_of(name, python)} | {what} | {outcome} |", flush=True)
    told = [each["answer"] if isinstance(each, dict) else each for each in seen.values()]
    answers = {answer for answer in told if answer is not None}
    if len(answers) > 1:
        sys.exit(f"clients were answered differently: {answers}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


@contextmanager
def service(folder: Path) -> Iterator[tuple[dict[str, Any], MicroLM]]:
    """Where it listens and what to ask, and the model behind it."""
    store = Store(folder / "store")
    manifest = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=WINDOW)
    with open_model_files(store, manifest) as files:
        write_hf_folder(folder / "hf", files, b"", dtype=torch.float32)
    model = load_model(store, manifest)
    tokenizer = Tokenizer.from_bytes(store.read(manifest.blob(TOKENIZER)))
    grammars = Grammars(tokenizer)

    hosts: list[EngineHost] = []

    async def make() -> Any:
        opened = OpenedModel("m", model, None, tokenizer, grammars.constraint, grammars.prepare)
        host = EngineHost(lambda _args: opened)
        hosts.append(host)
        await host.reconfigure(AppArgs(model="a@1").model_dump(mode="json"))
        return make_service_app(served(host, tokenizer, "m", WINDOW))[1]

    server = Server(make)
    try:
        yield {
            "url": f"http://127.0.0.1:{server.port}", "key": KEY, "model": NAME, "window": WINDOW,
            "tokenizer": str(folder / "hf"), "questions": QUESTIONS, "folder": str(folder),
        }, model  # fmt: skip
    finally:
        server.call(hosts[0].stop())
        server.stop()


def prove(name: str, python: str, order: dict[str, Any], seen: dict[str, Any]) -> str:
    """Run one proof; in words how it ended."""
    try:
        done = subprocess.run(  # noqa: S603 - the environment that was named
            [python, str(PROOFS_FILE), name],
            input=json.dumps(order), capture_output=True, text=True, timeout=_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"FAILED: no end within {_TIMEOUT_S:.0f} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        missing = last[0].partition("No module named ")[2]
        return f"not installed: {missing}" if missing else f"FAILED: {last[0][:200]}"
    seen[name] = json.loads(done.stdout.splitlines()[-1])
    return "passed"


def compare_scores(scores: list[list[Any]], model: MicroLM, order: dict[str, Any]) -> str:
    """The harness's log-likelihoods beside those of our own evaluation."""
    tokenizer = tiny_tokenizer()
    encoder = Encoder(tokenizer, add_bos=False)
    asked = [
        encoder.question(Continuation(context, target)) for context, target in order["questions"]
    ]
    own = Scorer(model).answer(asked)
    far = max(abs(a.log_likelihood - b[0]) for a, b in zip(own, scores, strict=True))
    n_other = sum(a.is_greedy != b[1] for a, b in zip(own, scores, strict=True))
    verdict = "passed" if far < CLOSE and not n_other else "FAILED"
    return f"{verdict}: {len(own)} log-likelihoods within {far:.1e} of ours, {n_other} judged apart"


def version_of(name: str, python: str) -> str:
    """The installed version."""
    ask = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", ask, name], capture_output=True, text=True)  # noqa: S603
    return done.stdout.strip() or "-"


if __name__ == "__main__":
    main()
